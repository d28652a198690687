// The fleet page: one card a box, refreshed while it is looked at. State is said in words and in colour.

import { bytes, element, fetchJson, keepFresh, say, span, time } from "./dom.js";

const REFRESH_S = 5;
const STATES = { online: "Online", offline: "Offline", lost: "Lost", never: "Never seen" };
const FULL = 0.9;  // of the disk, from which its bar warns
const SOON_DAYS = 14;  // before a certificate's end, from which it warns

const boxes = document.getElementById("boxes");
const number = (count) => (count === null || count === undefined ? "–" : count.toLocaleString());

function fact(label, value, { warn = false, note = null } = {}) {
  return element("div", { class: warn ? "fact warn" : "fact" },
    element("dt", {}, label), element("dd", {}, value, note && element("small", {}, note)));
}

function disk(box) {
  if (!box.disk_total_bytes) return fact("Disk", "–");
  const used = 1 - box.disk_free_bytes / box.disk_total_bytes;
  const bar = element("meter", { min: 0, max: 1, high: FULL, optimum: 0, value: used.toFixed(3) });
  return fact("Disk", bar, { warn: used > FULL, note: `${bytes(box.disk_free_bytes)} free of ${bytes(box.disk_total_bytes)}` });
}

function certificate(box, now) {
  if (!box.certificate_expires_at_utc) return fact("Certificate", "–");
  const days = (new Date(box.certificate_expires_at_utc) - new Date(now)) / 86400000;
  if (days <= 0) return fact("Certificate", "expired", { warn: true });
  return fact("Certificate", `${Math.floor(days)} days left`, { warn: days < SOON_DAYS });
}

function scanners(box, now) {
  if (!box.equipment.length) return element("p", { class: "note" }, "No scanner has called this box yet.");
  const lines = box.equipment.map((scanner) => element("tr", {},
    element("td", {}, element("b", {}, scanner.ae_title)),
    element("td", { class: "code" }, scanner.address),
    element("td", {}, scanner.last_store_at_utc ? `${span(scanner.last_store_at_utc, now)} ago` : "never"),
    element("td", { class: "number" }, number(scanner.instances)),
    element("td", { class: scanner.rejected ? "number warn" : "number" }, number(scanner.rejected))));
  const heads = ["Scanner", "Address", "Last sent", "Images", "Rejected"].map((text, index) =>
    element("th", { scope: "col", class: index > 2 ? "number" : null }, text));
  return element("table", { class: "data" },
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
}

function card(box, now) {
  const state = box.revoked ? "revoked" : box.state;
  const since = box.since_utc ? `for ${span(box.since_utc, now)}` : "";
  const stale = box.state !== "online" && box.last_telemetry_at_utc;
  return element("article", { class: `box ${state}`, "data-gateway": box.gateway_id, "data-state": box.state },
    element("header", {},
      element("h2", {}, box.name || box.gateway_id),
      element("span", { class: "soft code" }, box.gateway_id),
      element("span", { class: `pill ${state}` }, box.revoked ? "Revoked" : STATES[box.state] ?? box.state),
      element("span", { class: "soft" }, since)),
    box.accepting === false
      ? element("p", { class: "message" }, "Its disk reserve is reached: scanners are told to send again later.") : null,
    element("dl", { class: "facts" },
      fact("Waiting to be sent", number(box.queue_objects), { note: box.queue_bytes === null ? null : bytes(box.queue_bytes) }),
      fact("Oldest waiting", box.oldest_unsent_at_utc ? span(box.oldest_unsent_at_utc, now)
        : box.queue_objects === null ? "–" : "none"),
      fact("In quarantine", number(box.quarantined_objects), { warn: box.quarantined_objects > 0 }),
      disk(box),
      certificate(box, now),
      fact("Version", box.version || "–")),
    scanners(box, now),
    stale ? element("p", { class: "note" }, "Numbers are of ", time(box.last_telemetry_at_utc), ".") : null);
}

async function load() {
  try {
    const fleet = await fetchJson("/api/fleet");
    boxes.replaceChildren(...fleet.boxes.map((box) => card(box, fleet.now_utc)));
    document.getElementById("empty").hidden = fleet.boxes.length > 0;
    const counts = Object.keys(STATES).map((state) => [state, fleet.boxes.filter((box) => box.state === state).length]);
    document.getElementById("summary").replaceChildren(...counts.filter(([, count]) => count).map(([state, count]) =>
      element("li", {}, element("span", { class: `pill ${state}` }, `${count} ${STATES[state].toLowerCase()}`))));
    say("");
    document.documentElement.dataset.state = "ready";
  } catch (error) {
    say(error.message);
    document.documentElement.dataset.state = "error";
  }
}

function pairingDialog() {
  const dialog = document.getElementById("pairing");
  const form = document.getElementById("pair");
  const secret = document.getElementById("secret");
  const show = (paired) => {
    document.getElementById("ask").hidden = paired;
    document.getElementById("make").hidden = paired;
    document.getElementById("answer").hidden = !paired;
  };
  document.getElementById("add").addEventListener("click", () => {
    form.reset();
    say("", "pair-message");
    show(false);
    dialog.showModal();
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { secret.value = ""; load(); });
  document.getElementById("copy").addEventListener("click", async () => {
    secret.select();
    await navigator.clipboard?.writeText(secret.value).catch(() => {});
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const answer = await fetchJson("/api/gateways/pairing", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ name: form.elements.name.value.trim() }),
      });
      secret.value = answer.pairing;
      document.getElementById("expires").textContent = new Date(answer.expires_at_utc).toLocaleTimeString();
      say("", "pair-message");
      show(true);
      secret.select();
    } catch (error) {
      say(error.message, "pair-message");
    }
  });
}

if (document.getElementById("add")) pairingDialog();
keepFresh(REFRESH_S, load);
load();
