// The fleet page: one card a box, refreshed while it is looked at. State is said in words and in colour.

import { bytes, element, fetchJson, keepFresh, say, showing, span, time } from "./dom.js";
import { membership, qrCode, showPending } from "./enrolments.js";

const REFRESH_S = 5;
const STATES = { online: "Online", offline: "Offline", lost: "Lost", never: "Never seen" };
const FULL = 0.9;  // of the disk, from which its bar warns
const KEY_PLACES = { tpm: "its key is in the TPM", file: "its key is in a file" };
const SOON_DAYS = 14;  // before a certificate's end, from which it warns

const boxes = document.getElementById("boxes");
const mayCommand = document.body.querySelector("[data-may-command]") !== null;
const opened = new Set();  // what is unfolded stays so when the page is refreshed
boxes.addEventListener("toggle", (event) => {
  const key = `${event.target.closest("[data-gateway]").dataset.gateway} ${event.target.dataset.part}`;
  if (event.target.open) opened.add(key); else if (event.target.isConnected) opened.delete(key);
}, true);
const pending = document.getElementById("pending");  // where may be decided who comes in
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
  const note = KEY_PLACES[box.key_place] || null;
  if (days <= 0) return fact("Certificate", "expired", { warn: true, note });
  return fact("Certificate", `${Math.floor(days)} days left`, { warn: days < SOON_DAYS, note });
}

function scanners(box, now) {
  if (!box.equipment.length) return element("p", { class: "note" }, "No scanner has called this box yet.");
  const lines = box.equipment.map((scanner) => element("tr", {},
    element("td", {}, element("b", {}, scanner.ae_title)),
    element("td", { class: "code" }, scanner.address),
    element("td", { class: scanner.silence === "silent" ? "warn" : null },
      scanner.last_store_at_utc ? `${span(scanner.last_store_at_utc, now)} ago` : "never"),
    element("td", {}, scanner.echo_ok === null ? "–" : scanner.echo_ok ? "answers" : "no answer"),
    element("td", { class: "number" }, number(scanner.instances)),
    element("td", { class: scanner.rejected ? "number warn" : "number" }, number(scanner.rejected))));
  const heads = ["Scanner", "Address", "Last sent", "C-ECHO", "Images", "Rejected"].map((text, index) =>
    element("th", { scope: "col", class: index > 3 ? "number" : null }, text));
  return element("table", { class: "data" },
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
}

const KINDS = { dimse: "C-STORE", stow: "STOW-RS", central: "central" };

/** Where the box sends beside this central, and how that stands; nothing where it sends nowhere else. */
function destinations(box, now) {
  if (!box.destinations.length) return null;
  const lines = box.destinations.map((one) => element("tr", { "data-destination": one.name },
    element("td", {}, element("b", {}, one.name)),
    element("td", {}, KINDS[one.kind] ?? "–"),
    element("td", { class: "number" }, number(one.waiting_objects)),
    element("td", { class: "number" }, one.waiting_bytes === null ? "–" : bytes(one.waiting_bytes)),
    element("td", {}, one.oldest_at_utc ? span(one.oldest_at_utc, now) : "–"),
    element("td", { class: one.set_aside_objects ? "number warn" : "number" }, number(one.set_aside_objects)),
    element("td", { class: one.last_error ? "warn" : null }, one.last_error || "–")));
  const heads = ["Sends to", "By", "Waiting", "Size", "Oldest", "Refused", "Why it waits"].map((text) =>
    element("th", { scope: "col", class: ["Waiting", "Size", "Refused"].includes(text) ? "number" : null }, text));
  return element("table", { class: "data", "data-part": "destinations" },
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
}

function happened(box) {
  if (!box.events.length) return null;
  const lines = box.events.map((event) => element("li", {}, time(event.at_utc), ` ${event.detail}`));
  return element("details", { "data-part": "events", open: opened.has(`${box.gateway_id} events`) ? "" : null },
    element("summary", {}, "What happened"), element("ul", {}, ...lines));
}

/** What an administrator may tell a box, and what became of the last few orders. */
function orders(box) {
  const tell = (label, kind, ask = []) => {
    const button = element("button", { type: "button", "data-command": kind }, label);
    button.addEventListener("click", () => command(box.gateway_id, kind, ask));
    return button;
  };
  const last = box.commands.map((order) => element("li", { "data-state": order.state },
    time(order.issued_at_utc), ` ${order.kind} by ${order.issued_by}: ${order.state}`, order.detail ? `, ${order.detail}` : "",
    order.kind === "support-bundle" && order.state === "done"
      ? element("a", { href: `/api/gateways/support/${box.gateway_id}/${order.id}` }, " (download)") : null));
  return element("details", { "data-part": "orders", open: opened.has(`${box.gateway_id} orders`) ? "" : null },
    element("summary", {}, "Commands"),
    element("div", { class: "buttons" },
      box.paused ? tell("Resume sending", "resume") : tell("Pause sending", "pause"),
      tell("Send a study first", "prioritise", [["study_instance_uid", "Study Instance UID"]]),
      tell("Set a study's priority", "prioritise", [["study_instance_uid", "Study Instance UID"],
        ["priority", "Priority: first, stat, high, routine or low"]]),
      tell("C-ECHO a scanner", "echo", [["ae_title", "AE title of a scanner configured on the box"]]),
      tell("Support bundle", "support-bundle")),
    last.length ? element("ul", {}, ...last) : null);
}

async function command(gatewayId, kind, ask) {
  const wish = { gateway_id: gatewayId, kind };
  for (const [name, question] of ask) {
    const value = window.prompt(question);
    if (!value) return;
    wish[name] = value.trim();
  }
  try {
    await fetchJson("/api/gateways/command", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish),
    });
    await load();
  } catch (error) {
    say(error.message);
  }
}

function card(box, now) {
  const state = box.revoked ? "revoked" : box.state;
  // What a box dates is compared with its own clock, which may be years off; when it was lost is central's to say.
  const boxNow = new Date(new Date(now).getTime() + 1000 * (box.clock_offset_s ?? 0));
  const since = box.since_utc ? `for ${span(box.since_utc, box.state === "lost" ? now : boxNow)}` : "";
  const stale = box.state !== "online" && box.last_telemetry_at_utc;
  return element("article", { class: `box ${state}`, "data-gateway": box.gateway_id, "data-state": box.state },
    element("header", {},
      element("h2", {}, box.name || box.gateway_id),
      element("span", { class: "soft code" }, box.gateway_id),
      element("span", { class: `pill ${state}` }, box.revoked ? "Revoked" : STATES[box.state] ?? box.state),
      element("span", { class: "soft" }, since)),
    box.accepting === false && !box.alerts.some((alert) => alert.kind === "not-accepting")
      ? element("p", { class: "message" }, "Its disk reserve is reached: scanners are told to send again later.") : null,
    ...box.alerts.map((alert) => element("p", { class: "message", "data-alert": alert.kind }, alert.sentence)),
    element("dl", { class: "facts" },
      fact("Waiting to be sent", number(box.queue_objects), { note: box.queue_bytes === null ? null : bytes(box.queue_bytes) }),
      fact("Oldest waiting", box.oldest_unsent_at_utc ? span(box.oldest_unsent_at_utc, boxNow)
        : box.queue_objects === null ? "–" : "none"),
      fact("In quarantine", number(box.quarantined_objects), { warn: box.quarantined_objects > 0 }),
      disk(box),
      certificate(box, now),
      fact("Version", box.version || "–"),
      box.temperature_c === null ? null : fact("Temperature", `${Math.round(box.temperature_c)} °C`)),
    scanners(box, boxNow),
    destinations(box, boxNow),
    happened(box),
    box.revoked || !mayCommand ? null : orders(box),
    pending ? membership(box, showPairing, load, say) : null,
    stale ? element("p", { class: "note" }, "Numbers are of ", time(box.last_telemetry_at_utc), ".") : null);
}

const load = () => showing(async () => {
  const fleet = await fetchJson("/api/fleet");
  if (pending) await showPending(pending, fleet.now_utc, load, say);
  boxes.replaceChildren(...fleet.boxes.map((box) => card(box, fleet.now_utc)));
  document.getElementById("empty").hidden = fleet.boxes.length > 0;
  const counts = Object.keys(STATES).map((state) => [state, fleet.boxes.filter((box) => box.state === state).length]);
  document.getElementById("summary").replaceChildren(...counts.filter(([, count]) => count).map(([state, count]) =>
    element("li", {}, element("span", { class: `pill ${state}` }, `${count} ${STATES[state].toLowerCase()}`))));
});

function show(paired) {
  document.getElementById("ask").hidden = paired;
  document.getElementById("make").hidden = paired;
  document.getElementById("answer").hidden = !paired;
}

/** The pairing string of `answer`, as text and as QR code; it is shown this once. */
function showPairing(answer) {
  const secret = document.getElementById("secret");
  secret.value = answer.pairing;
  document.getElementById("qr").replaceChildren(qrCode(answer.qr_svg));
  document.getElementById("expires").textContent = new Date(answer.expires_at_utc).toLocaleTimeString();
  say("", "pair-message");
  show(true);
  const dialog = document.getElementById("pairing");
  if (!dialog.open) dialog.showModal();
  secret.select();
}

function pairingDialog() {
  const dialog = document.getElementById("pairing");
  const form = document.getElementById("pair");
  const secret = document.getElementById("secret");
  document.getElementById("add").addEventListener("click", () => {
    form.reset();
    say("", "pair-message");
    show(false);
    dialog.showModal();
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    secret.value = "";
    document.getElementById("qr").replaceChildren();
    load();
  });
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
      showPairing(answer);
    } catch (error) {
      say(error.message, "pair-message");
    }
  });
}

if (document.getElementById("add")) pairingDialog();
keepFresh(REFRESH_S, load);
load();
