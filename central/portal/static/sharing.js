// The sharing page: who may see which single study, and whose consent is withdrawn. Each list shows what holds now.

import { element, fetchJson, say, send, time } from "./dom.js";

const endOf = (day) => (day ? new Date(`${day}T23:59:59`).toISOString() : null);
const uid = (study) => element("span", { class: "code" }, study);
const until = (iso) => (iso ? element("span", {}, "until ", time(iso)) : "until it is ended");

/** One list on this page, and the form above it; whichever the page does not have is left out. */
function section({ list, form, url, key, id, wish, line, done }) {
  const place = document.getElementById(list);
  if (!place) return null;
  async function load() {
    const found = (await fetchJson(url))[key];
    place.replaceChildren(...found.map((entry) => {
      const button = element("button", { type: "button", "aria-label": `End: ${place.ariaLabel} ${entry[id]}` }, "End");
      button.addEventListener("click", () => act(async () => {
        await send("DELETE", `${url}/${entry[id]}`);
        await load();
      }));
      return element("li", {}, element("div", {}, ...line(entry)), button);
    }));
    if (!found.length) place.append(element("li", { class: "soft" }, "Nothing holds now."));
  }
  document.getElementById(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act(async () => {
      const answer = await send("POST", url, wish(new FormData(event.target)));
      event.target.reset();
      document.getElementById("done").textContent = done(answer);
      await load();
    });
  });
  return load;
}

async function act(what) {
  document.getElementById("done").textContent = "";
  try {
    await what();
    say("");
    document.documentElement.dataset.state = "ready";
  } catch (error) {
    say(error.message);
    document.documentElement.dataset.state = "error";
  }
}

const made = document.getElementById("made-link");
document.getElementById("copy")?.addEventListener("click", async () => {
  made.select();
  await navigator.clipboard?.writeText(made.value);
});

const sections = [
  section({
    list: "links", form: "link", url: "/api/guest-links", key: "links", id: "link_id",
    wish: (fields) => ({
      study_instance_uid: fields.get("study_instance_uid").trim(), days: Number(fields.get("days")),
      max_uses: Number(fields.get("max_uses")), pin: fields.get("pin"), note: fields.get("note").trim(),
    }),
    line: (link) => [
      element("b", {}, link.note || "somebody"), " may look at ", uid(link.study_instance_uid), " ", until(link.ends_at_utc),
      element("p", { class: "note" }, `opened ${link.uses} of ${link.max_uses} times, `,
        link.has_pin ? `PIN, wrong ${link.wrong_pins} of 10 times` : "no PIN", `, by ${link.host}`),
    ],
    done: (link) => {
      made.value = location.origin + link.path;
      document.getElementById("made").hidden = false;
      made.focus();
      made.select();
      return "The link is made. Send it; tell the PIN by another way.";
    },
  }),
  section({
    list: "rules", form: "rule", url: "/api/study-rules", key: "rules", id: "rule_id",
    wish: (fields) => ({
      kind: fields.get("kind"), username: fields.get("username").trim(), reason: fields.get("reason").trim(),
      study_instance_uid: fields.get("study_instance_uid").trim(), until_utc: endOf(fields.get("until")),
    }),
    line: (rule) => [
      element("b", {}, rule.username), rule.kind === "grant" ? " may see " : " must not see ",
      uid(rule.study_instance_uid), " ", until(rule.until_utc),
      element("p", { class: "note" }, `${rule.reason} (${rule.made_by}, `, time(rule.made_at_utc), ")"),
    ],
    done: (rule) => `This holds for ${rule.username} from now on.`,
  }),
  section({
    list: "withdrawals", form: "withdrawal", url: "/api/consent-withdrawals", key: "withdrawals", id: "withdrawal_id",
    wish: (fields) => ({
      patient_id: fields.get("patient_id"), issuer_of_patient_id: fields.get("issuer_of_patient_id"),
      exceptions: fields.get("exceptions").split(/[\s,]+/).filter(Boolean),
    }),
    line: (one) => [
      element("b", { class: "code" }, one.patient_id), one.issuer_of_patient_id ? ` of ${one.issuer_of_patient_id}` : "",
      `, ${one.studies} studies`, one.exceptions.length ? `, except ${one.exceptions.join(", ")}` : "",
      element("p", { class: "note" }, `${one.made_by}, `, time(one.made_at_utc)),
    ],
    done: (answer) => (answer.studies
      ? `Withdrawn: ${answer.studies} studies are closed.`
      : "Withdrawn. No study here carries this Patient ID and issuer: are both written as on the images?"),
  }),
].filter(Boolean);

const asked = new URLSearchParams(location.search).get("study");
if (asked) for (const field of document.querySelectorAll("[name=study_instance_uid]")) field.value = asked;
act(() => Promise.all(sections.map((load) => load())));
