// Who may see one study, and why, as the policy says; given, refused and ended here.

import { element, send, time } from "./dom.js";
import { act, doneWithUndo, endOfDay } from "./sections.js";

const WHY = {
  "role": "by role", "referring-physician": "is the referring physician", "department": "of the department",
  "box": "came to the own box within a day", "patient": "the own study", "assigned-study": "looks after this study",
  "assigned-patient": "looks after this patient", "grant": "was given access", "emergency": "opened it in an emergency",
  "invitation": "by a link", "agreement": "by an agreement between institutions",
};
const MAY = { search: "find", view: "look", export: "take away", share: "pass on" };
const ROLES = { admin: "administrator", peer: "DICOM peer" };
const BEHIND = {
  "grant": "access given", "refusal": "refused", "assigned-study": "study assigned", "assigned-patient": "patient assigned",
  "emergency": "emergency", "guest-link": "guest link",
};

const study = document.getElementById("study");
const found = document.getElementById("found");
const day = (date) => (/^\d{8}$/.test(date) ? `${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}` : date || "no date");
let shown = null;

function who(one) {
  if (one.who || one.role === "guest") return [element("b", {}, one.who || "a guest")];
  if (one.role === "patient") return [one.count === 1 ? "the patient’s own account" : `accounts of the patient: ${one.count}`];
  return [`${one.count} of another institution`];
}

function why(one) {
  const reasons = one.why.map((reason) => WHY[reason]).join("; ");
  if (one.why_not === "refused") {
    return [element("b", { class: "no" }, "must not see it"), reasons ? `, though: ${reasons}` : ", and has no other right to it"];
  }
  return [reasons];
}

/** What stands behind it, and the button that ends it. */
function behind(one, reason) {
  const line = element("p", { class: "note" }, `${BEHIND[reason.what]} by ${reason.made_by}, `, time(reason.made_at_utc),
    reason.until_utc ? ", until " : ", until it is ended", reason.until_utc ? time(reason.until_utc) : null,
    reason.said ? `: ${reason.said}` : "");
  if (!reason.ends) return [line];
  const what = `${BEHIND[reason.what]}: ${one.who || one.role}`;
  const button = element("button", { type: "button", "aria-label": `End: ${what}` }, "End");
  button.addEventListener("click", () => {
    if (reason.what === "guest-link" && !confirm("End this link? It cannot be had back: a new one has to be sent.")) return;
    act(async () => {
      await send("DELETE", reason.ends);
      await show(shown);
      doneWithUndo(`Ended: ${what}.`, again(one, reason));
    });
  });
  return [line, button];
}

/** What makes an ended rule or assignment of the study once more; of a patient and of a link there is none here. */
function again(one, { what, until_utc, said }) {
  const its = { username: one.who, until_utc, study_instance_uid: shown.study_instance_uid };
  const wishes = {
    "grant": ["/api/study-rules", { ...its, kind: "grant", reason: said, institution: shown.institution }],
    "refusal": ["/api/study-rules", { ...its, kind: "refusal", reason: said, institution: shown.institution }],
    "assigned-study": ["/api/assignments", its],
  };
  const [url, wish] = wishes[what] ?? [];
  return url && (async () => {
    await send("POST", url, wish);
    await show(shown);
  });
}

const cell = (label, ...content) => element("td", { "data-label": label }, element("div", {}, ...content));

const row = (one) => element("tr", {},
  cell("Who", ...who(one), shown.institution === one.institution || one.institution === "*"
    ? null : element("p", { class: "note" }, one.institution)),
  cell("Role", ROLES[one.role] ?? one.role),
  cell("May", one.may.map((action) => MAY[action]).join(", ") || "nothing"),
  cell("Why", ...why(one), ...one.because.map((reason) => element("div", { class: "behind" }, ...behind(one, reason)))));

/** Ask for a study, and show who may see it. */
async function show({ study_instance_uid, institution }) {
  const told = await send("POST", "/api/study-access", { study_instance_uid, institution });
  shown = told;
  const facts = {
    date: day(told.study_date), modalities: told.modalities.join(", ") || "none said",
    numbers: `${told.instances}, in ${told.series} series`, uid: told.study_instance_uid,
    asked: time(new Date().toISOString()),
  };
  for (const [name, value] of Object.entries(facts)) found.querySelector(`[data-fact=${name}]`).replaceChildren(value);
  document.getElementById("withdrawn").hidden = !told.consent_withdrawn;
  const rows = told.people.map(row);
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: 4, class: "soft" }, "Nobody may see it.")));
  found.querySelector("tbody").replaceChildren(...rows);
  hide(false);
}

function hide(away) {
  found.hidden = away;
  document.getElementById("change").hidden = away;
}

study.addEventListener("input", () => hide(true));  // what is shown is of what stands there
study.addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => {
    hide(true);
    await show(Object.fromEntries([...new FormData(study)].map(([name, value]) => [name, value.trim()])));
    found.focus();
  });
});

document.getElementById("rule").addEventListener("submit", (event) => {
  event.preventDefault();
  const fields = new FormData(event.target);
  act(async () => {
    const rule = await send("POST", "/api/study-rules", {
      kind: fields.get("kind"), username: fields.get("username").trim(), reason: fields.get("reason").trim(),
      until_utc: endOfDay(fields.get("until")), study_instance_uid: shown.study_instance_uid, institution: shown.institution,
    });
    event.target.reset();
    await show(shown);
    doneWithUndo(`${rule.username} ${rule.kind === "grant" ? "may see it" : "must not see it"} from now on.`, async () => {
      await send("DELETE", `/api/study-rules/${rule.rule_id}`);
      await show(shown);
    });
  });
});

const asked = new URLSearchParams(location.search).get("study");
if (asked) {
  study.elements.study_instance_uid.value = asked;
  act(() => show({ study_instance_uid: asked }));
} else {
  document.documentElement.dataset.state = "ready";
}
