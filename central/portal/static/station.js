// The technician's page: what is scheduled for the own boxes on a day, and how much of each study has arrived.

import { element, fetchJson, keepFresh, showing, time } from "./dom.js";

const form = document.getElementById("search");
const body = document.querySelector("#items tbody");
const clock = (tm) => (tm.length >= 4 ? `${tm.slice(0, 2)}:${tm.slice(2, 4)}` : tm);

const arrived = (item) => (item.arrived_at_utc
  ? [`${item.series} series, ${item.instances} images, since `, time(item.arrived_at_utc)]
  : [element("span", { class: "soft" }, "nothing yet")]);

const line = (item) => element("tr", { "data-study": item.study_instance_uid },
  element("td", { class: "date" }, clock(item.time)),
  element("td", { title: item.patient_name }, item.patient_name),
  element("td", { class: "code" }, item.patient_id),
  element("td", { class: "long", title: item.description }, item.description),
  element("td", {}, element("span", { class: "tag" }, item.modality)),
  element("td", { class: "code" }, item.station_ae_title),
  element("td", { class: "code" }, item.accession_number),
  element("td", {}, ...arrived(item)));

const load = () => showing(async () => {
  const day = new FormData(form).get("day").replaceAll("-", "");
  const answer = await fetchJson(`/api/station${day ? `?day=${day}` : ""}`);
  body.replaceChildren(...answer.items.map(line));
  document.getElementById("empty").hidden = answer.items.length > 0;
});

form.addEventListener("change", load);
form.addEventListener("submit", (event) => { event.preventDefault(); load(); });
keepFresh(30, load);
load();
