// Erasing and legal hold: what a study is made of is shown first; what one administrator asks for another one confirms.

import { element, fetchJson, send, time } from "./dom.js";
import { act } from "./sections.js";

const found = document.getElementById("found");
const uid = (study) => element("span", { class: "code" }, study);
const of = (one) => (one.institution === "default" ? "" : ` (${one.institution})`);
const day = (date) => (/^\d{8}$/.test(date) ? `${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}` : date || "no date");
let shown = null;

function done(sentence) {
  document.getElementById("done").textContent = sentence;
}

/** Show what there is of a study; `null` shows nothing. */
function show(extent) {
  shown = extent;
  found.hidden = !extent;
  if (!extent) return;
  const facts = {
    date: day(extent.study_date), modalities: extent.modalities.join(", ") || "none said",
    numbers: `${extent.instances}, in ${extent.series} series`,
  };
  for (const [name, text] of Object.entries(facts)) found.querySelector(`[data-fact=${name}]`).textContent = text;
  const held = document.getElementById("held");
  held.hidden = !extent.hold;
  held.textContent = extent.hold ? `Under legal hold, set by ${extent.hold.set_by}: ${extent.hold.reason}. It cannot be erased.` : "";
  for (const button of found.querySelectorAll("#wish button")) button.disabled = Boolean(extent.hold);
}

/** A button of an entry: `label` is read out with the study it is for. */
function button(text, label, what, attributes = {}) {
  const made = element("button", { type: "button", "aria-label": label, ...attributes }, text);
  made.addEventListener("click", () => act(what));
  return made;
}

/** Takes back a request that waits at `address`; `left` is how things stand then. */
const takeBack = (asked, address, left) =>
  button("Take back", `Take back the request for ${asked.study_instance_uid}`, async () => {
    await send("DELETE", `${address}/${asked.request_id}`);
    document.dispatchEvent(new Event("reviewed"));
    await load();
    done(`The request is taken back. ${left}`);
  }, { "data-withdraw": true });

const waitingLine = (one) => element("li", { "data-request": one.request_id }, element("div", {},
  uid(one.study_instance_uid), `${of(one)}: ${day(one.study_date)}, ${one.modalities.join(", ")}, images: ${one.instances}`,
  element("p", {}, one.reason),
  element("p", { class: "note" }, `asked by ${one.is_mine ? "you" : one.asked_by}, `, time(one.asked_at_utc), ", ends ",
    time(one.until_utc), one.is_held ? ". Under legal hold: it cannot be erased" : "",
    one.instances_now === one.instances ? "" : `. Images now: ${one.instances_now}. Take this back, and ask anew`,
    one.is_mine ? ". Somebody else confirms it." : "")),
  element("div", { class: "buttons" },
    one.is_mine ? null : button("Erase for good", `Erase for good: ${one.study_instance_uid}`, async () => {
      if (!confirm(`Erase this study (images: ${one.instances}) for good?`)) return;
      const { objects } = await send("POST", `/api/erasures/${one.request_id}/confirmation`, { instances: one.instances });
      document.dispatchEvent(new Event("reviewed"));
      await load();
      done(`The study is erased; objects: ${objects}.`);
    }, { class: "danger", "data-confirm": true, disabled: one.is_held }),
    takeBack(one, "/api/erasures", "Nothing was erased.")));

function holdLine(hold) {
  const reason = element("input", { "aria-label": `Why the hold of ${hold.study_instance_uid} ends`, minlength: 3,
    maxlength: 500, placeholder: "Why it ends", autocomplete: "off" });
  return element("li", { "data-hold": hold.study_instance_uid }, element("div", {},
    uid(hold.study_instance_uid), of(hold), element("p", {}, hold.reason),
    element("p", { class: "note" }, `${hold.set_by}, `, time(hold.set_at_utc)),
    element("div", { class: "buttons" }, reason,
      button("End the hold", `End the hold of ${hold.study_instance_uid}`, async () => {
        await send("POST", "/api/legal-holds/end", {
          study_instance_uid: hold.study_instance_uid, institution: hold.institution, reason: reason.value,
        });
        await load();
        done("The hold is ended.");
      }))));
}

/** An erased study; `asked`: the request to take it in again, if there is one. */
function erasedLine(one, asked) {
  const said = element("div", {}, uid(one.study_instance_uid), of(one),
    element("p", { class: "note" }, `objects: ${one.objects}, by ${one.erased_by}, `, time(one.erased_at_utc)));
  const line = element("li", { "data-erased": one.study_instance_uid }, said);
  if (!asked) {
    const reason = element("input", { "aria-label": `Why ${one.study_instance_uid} is taken in again`, minlength: 3,
      maxlength: 500, placeholder: "Why it is taken in again", autocomplete: "off" });
    said.append(element("div", { class: "buttons" }, reason,
      button("Ask to take it in again", `Ask to take in again: ${one.study_instance_uid}`, async () => {
        await send("POST", "/api/readmissions", {
          study_instance_uid: one.study_instance_uid, institution: one.institution, reason: reason.value,
        });
        await load();
        done("Asked. Its images stay refused until somebody else confirms it.");
      }, { "data-ask": true })));
    return line;
  }
  said.append(element("p", {}, `To be taken in again: ${asked.reason}`),
    element("p", { class: "note" }, `asked by ${asked.is_mine ? "you" : asked.asked_by}, `, time(asked.asked_at_utc), ", ends ",
      time(asked.until_utc), asked.is_mine ? ". Somebody else confirms it." : ""));
  line.append(element("div", { class: "buttons" },
    asked.is_mine ? null : button("Take it in again", `Take in again: ${one.study_instance_uid}`, async () => {
      if (!confirm("Take images of this erased study in again, from now on?")) return;
      await send("POST", `/api/readmissions/${asked.request_id}/confirmation`);
      document.dispatchEvent(new Event("reviewed"));
      await load();
      done("Images of this study are taken in again. Queue again what boxes have set aside.");
    }, { "data-confirm": true }),
    takeBack(asked, "/api/readmissions", "Its images stay refused.")));
  return line;
}

function list(id, entries, line, none) {
  document.getElementById(id).replaceChildren(...entries.map(line));
  if (!entries.length) document.getElementById(id).append(element("li", { class: "soft" }, none));
}

async function load() {
  const { waiting, holds, erased, readmissions } = await fetchJson("/api/erasures");
  list("waiting", waiting, waitingLine, "Nothing waits to be erased.");
  list("holds", holds, holdLine, "No study is held.");
  const asked = (one) => readmissions.find((request) => request.study_instance_uid === one.study_instance_uid
    && request.institution === one.institution);
  const waitingFirst = [...erased].sort((one, other) => Boolean(asked(other)) - Boolean(asked(one)));
  list("erased", waitingFirst, (one) => erasedLine(one, asked(one)), "No study was erased.");
}

const study = document.getElementById("study");
study.addEventListener("input", () => show(null));  // what is shown is of what stands there
study.addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => {
    show(null);
    const asked = Object.fromEntries([...new FormData(study)].map(([name, value]) => [name, value.trim()]));
    show(await send("POST", "/api/erasures/preview", asked));
    found.focus();
  });
});

document.getElementById("wish").addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => {
    const { study_instance_uid, institution, instances } = shown;
    const wish = { study_instance_uid, institution, reason: new FormData(event.target).get("reason") };
    const erase = event.submitter.value === "erase";
    await (erase ? send("POST", "/api/erasures", { ...wish, instances }) : send("POST", "/api/legal-holds", wish));
    event.target.reset();
    study.reset();
    show(null);
    await load();
    done(erase ? "Asked. Nothing is erased until somebody else confirms it." : "The study is under legal hold.");
  });
});

const asked = new URLSearchParams(location.search).get("study");
if (asked) study.elements.study_instance_uid.value = asked;
act(load);
