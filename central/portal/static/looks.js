// Who looked at the patient's own studies, the latest first, a page at a time.

import { element, fetchJson, showing, time } from "./dom.js";

const body = document.querySelector("#looks tbody");
const more = document.getElementById("more");
const WHAT = { view: "looked", export: "fetched a copy", "break-glass": "opened it in an emergency" };
let next = null;

const da = (text) => (/^\d{8}$/.test(text) ? `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}` : text);

function line(look) {
  const study = "/viewer/?study=" + encodeURIComponent(look.study_instance_uid);
  return element("tr", {},
    element("td", { class: "date" }, time(look.ended_utc)),
    element("td", {}, element("b", {}, look.who)),
    element("td", {}, look.role),
    element("td", {}, WHAT[look.action] ?? look.action),
    element("td", { class: "date" }, element("a", { href: study }, da(look.study_date) || "(no date)")),
    element("td", { class: "long" }, look.study_description));
}

async function load() {
  const answer = await fetchJson("/api/looks" + (next === null ? "" : `?before_id=${next}`));
  body.append(...answer.looks.map(line));
  next = answer.next_before_id;
  more.hidden = next === null;
  document.getElementById("empty").hidden = body.children.length > 0;
  document.getElementById("count").textContent = `${body.children.length} looks`;
}

more.addEventListener("click", () => showing(load));
showing(load);
