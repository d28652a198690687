// The study list: QIDO-RS (PS3.18 section 10.6) into a table. New studies appear by themselves; rows that are
// there keep their element, so the focus and the scroll position stay where the reader left them.

import { element, fetchJson, keepFresh, say } from "./dom.js";

const PAGE_ROWS = 50;
const MOST_ROWS = 1000;  // what one answer may hold
const REFRESH_S = 15;

const form = document.getElementById("search");
const body = document.querySelector("#studies tbody");
const more = document.getElementById("more");
const empty = document.getElementById("empty");
const mayShare = document.querySelector("[data-may-share]") !== null;
const rows = new Map();  // Study Instance UID → <tr>
let wanted = PAGE_ROWS;
let running = null;

const value = (study, tag) => study[tag]?.Value?.[0] ?? "";
const values = (study, tag) => study[tag]?.Value ?? [];
const da = (text) => (/^\d{8}$/.test(text) ? `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}` : text);
const tm = (text) => (/^\d{4}/.test(text) ? `${text.slice(0, 2)}:${text.slice(2, 4)}` : "");

/** FAMILY^GIVEN^MIDDLE as "FAMILY, GIVEN MIDDLE"; an ideographic form follows. */
function personName(name) {
  if (!name) return "";
  const [family = "", given = "", middle = ""] = (name.Alphabetic ?? "").split("^");
  const alphabetic = [family, [given, middle].filter(Boolean).join(" ")].filter(Boolean).join(", ");
  const ideographic = (name.Ideographic ?? "").replaceAll("^", " ").trim();
  return [alphabetic, ideographic].filter(Boolean).join("  ");
}

/** The form as QIDO-RS parameters. */
function query() {
  const fields = new FormData(form);
  const text = (name) => fields.get(name).trim();
  const parameters = new URLSearchParams();
  if (text("name")) parameters.set("PatientName", `*${text("name").replace(/[\s,^]+/g, "*")}*`);
  if (text("id")) parameters.set("PatientID", `${text("id")}*`);
  if (text("accession")) parameters.set("AccessionNumber", `${text("accession")}*`);
  if (text("modality")) parameters.set("ModalitiesInStudy", text("modality").toUpperCase());
  const [from, to] = [text("from"), text("to")].map((day) => day.replaceAll("-", ""));
  if (from || to) parameters.set("StudyDate", `${from}-${to}`);
  return parameters;
}

function cells(study) {
  const uid = value(study, "0020000D");
  const patient = personName(value(study, "00100010")) || "(no name)";
  const physician = personName(value(study, "00080090"));
  const modalities = values(study, "00080061").map((code) => element("span", { class: "tag" }, code));
  return [
    element("td", { title: patient }, element("a", { href: "/viewer/?study=" + encodeURIComponent(uid) }, patient)),
    element("td", { class: "code", title: value(study, "00100020") }, value(study, "00100020")),
    element("td", { class: "date" }, da(value(study, "00100030"))),
    element("td", { class: "date" }, da(value(study, "00080020")), " ",
      element("span", { class: "soft" }, tm(value(study, "00080030")))),
    element("td", { class: "long", title: value(study, "00081030") }, value(study, "00081030")),
    element("td", {}, ...modalities),
    element("td", { class: "number" }, String(value(study, "00201208"))),
    element("td", { title: physician }, physician),
    element("td", { class: "code", title: value(study, "00080050") }, value(study, "00080050")),
    element("td", {}, element("a", { class: "quiet", download: "dicom.zip", title: "As DICOM files with a DICOMDIR",
      href: `/dicom-web/studies/${encodeURIComponent(uid)}?accept=application%2Fzip` }, "ZIP")),
    mayShare ? element("td", {}, element("a", { class: "quiet", href: "/sharing?study=" + encodeURIComponent(uid) },
      "Share")) : null,
  ].filter(Boolean);
}

/** Bring the table to `studies`, newest first, touching only what changed. */
function show(studies, mark) {
  const found = new Set();
  let place = body.firstElementChild;
  for (const study of studies) {
    const uid = value(study, "0020000D");
    const text = JSON.stringify(study);
    found.add(uid);
    let row = rows.get(uid);
    if (!row) {
      row = element("tr", { "data-study": uid, class: mark ? "arrived" : null });
      rows.set(uid, row);
    }
    if (row.dataset.content !== text) {
      const focused = row.contains(document.activeElement);
      row.replaceChildren(...cells(study));
      row.dataset.content = text;
      if (focused) row.querySelector("a").focus();
    }
    if (row === place) place = row.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const [uid, row] of rows) {
    if (!found.has(uid)) {
      row.remove();
      rows.delete(uid);
    }
  }
}

async function load({ quiet = false } = {}) {
  if (quiet && running) return;
  running?.abort();
  const mine = running = new AbortController();
  const parameters = query();
  const searching = parameters.size > 0;
  parameters.set("limit", Math.min(wanted, MOST_ROWS));
  try {
    const studies = await fetchJson("/dicom-web/studies?" + parameters, {
      signal: mine.signal, headers: { Accept: "application/dicom+json" },
    }) ?? [];  // nothing found is an answer without content
    show(studies, quiet);
    say("");
    more.hidden = studies.length < wanted || wanted >= MOST_ROWS;
    empty.hidden = studies.length > 0;
    empty.querySelector("p").textContent = searching
      ? "Nothing matches this search. Try fewer fields, or a wider range of dates."
      : "Studies appear here as soon as a scanner has sent them. This page looks by itself.";
    document.getElementById("count").textContent =
      `${studies.length}${more.hidden ? "" : "+"} ${studies.length === 1 ? "study" : "studies"}`;
    document.getElementById("fresh").textContent = `updated ${new Date().toLocaleTimeString()}`;
    document.documentElement.dataset.state = "ready";
  } catch (error) {
    if (error.name !== "AbortError") {
      say(error.message);
      document.documentElement.dataset.state = "error";
    }
  } finally {
    if (running === mine) running = null;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  wanted = PAGE_ROWS;
  load();
});
form.addEventListener("reset", () => setTimeout(() => { wanted = PAGE_ROWS; load(); }));
more.addEventListener("click", () => { wanted = Math.min(wanted + PAGE_ROWS, MOST_ROWS); load(); });
body.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  // Selected text and the link itself (with its own new-tab keys) are left alone.
  if (row && !event.target.closest("a") && !String(getSelection())) row.querySelector("a").click();
});
document.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const links = [...body.querySelectorAll("td:first-child a")];
  const at = links.indexOf(document.activeElement);
  if (!step || !links.length || (at < 0 && document.activeElement?.tagName === "INPUT" && step < 0)) return;
  if (at < 0 && !["BODY", "INPUT"].includes(document.activeElement?.tagName)) return;
  if (document.activeElement?.type === "date" || document.activeElement?.list) return;
  event.preventDefault();
  links[Math.min(links.length - 1, Math.max(0, at + step))].focus();
});
keepFresh(REFRESH_S, () => load({ quiet: true }));
load();
