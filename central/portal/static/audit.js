// The audit record, newest first, a page at a time. Reading it is recorded too, so it does not refresh by itself.

import { element, fetchJson, say, showing, time } from "./dom.js";

const form = document.getElementById("search");
const body = document.querySelector("#events tbody");
const more = document.getElementById("more");
let next = null;

const parameters = () => new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()));

/** How far the messages to the house's repository are behind, where they are. */
function delivery(state) {
  if (!state || (!state.trouble && state.behind < 1000)) return "";
  return `${state.behind} records have not reached the audit record repository. ${state.trouble}`;
}

function line(event) {
  const refused = event.outcome === "refused";
  return element("tr", { class: refused ? "refused" : null },
    element("td", { class: "date" }, time(event.at_utc)),
    element("td", {}, element("b", {}, event.actor)),
    element("td", {}, event.actor_role),
    element("td", {}, event.action),
    element("td", {}, element("span", { class: refused ? "pill lost" : "soft" }, event.outcome)),
    element("td", { class: "code" }, event.source_address),
    element("td", { class: "code uid", title: event.study_instance_uid }, event.study_instance_uid ?? ""),
    element("td", { class: "long", title: event.detail }, event.detail));
}

const load = (older) => showing(async () => {
  const asked = parameters();
  if (older && next !== null) asked.set("before_id", next);
  const answer = await fetchJson("/api/audit/records", { method: "POST", body: asked });
  if (!older) body.replaceChildren();
  body.append(...answer.rows.map(line));
  next = answer.next_before_id;
  more.hidden = next === null;
  document.getElementById("empty").hidden = body.children.length > 0;
  document.getElementById("count").textContent = `${body.children.length} events`;
  say(delivery(answer.audit_messages), "delivery");
});

form.addEventListener("submit", (event) => {
  if (event.submitter?.id === "csv") return;  // the browser posts the form and keeps the answer as a file
  event.preventDefault();
  load(false);
});
form.addEventListener("reset", () => setTimeout(() => load(false)));
more.addEventListener("click", () => load(true));
load(false);
