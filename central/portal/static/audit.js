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

/** From a study on to who may see it now, for who manages access. */
function study(uid) {
  if (!uid || !("mayManage" in document.getElementById("events").dataset)) return uid ?? "";
  return element("a", { href: `/access?study=${encodeURIComponent(uid)}` }, uid);
}

const cell = (label, content, attributes = {}) => element("td", { "data-label": label, ...attributes }, content);

function line(event) {
  const refused = event.outcome === "refused";
  return element("tr", { class: refused ? "refused" : null },
    cell("Time", time(event.at_utc), { class: "date" }),
    cell("Who", element("b", {}, event.actor)),
    cell("Role", event.actor_role),
    cell("Action", event.action),
    cell("Outcome", element("span", { class: refused ? "pill lost" : "soft" }, event.outcome)),
    cell("From", event.source_address, { class: "code" }),
    cell("Study", study(event.study_instance_uid), { class: "code uid", title: event.study_instance_uid }),
    cell("Detail", event.detail, { class: "long", title: event.detail }));
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
  // What was asked for stands beside it, on paper as well.
  const words = [...parameters()].map(([name, value]) => `${form.elements[name].labels[0].firstChild.textContent.trim()} ${value}`);
  document.getElementById("count").textContent = [`${body.children.length} events`, ...words].join(", ");
  say(delivery(answer.audit_messages), "delivery");
});

form.addEventListener("submit", (event) => {
  if ("export" in (event.submitter?.dataset ?? {})) return;  // the browser posts the form and keeps the answer as a file
  event.preventDefault();
  load(false);
});
form.addEventListener("reset", () => setTimeout(() => load(false)));
more.addEventListener("click", () => load(true));
load(false);
