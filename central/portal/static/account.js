// The account page: authenticator app, passkeys, password, sessions. The state comes whole, after every change.

import { element, fetchJson, send, time } from "./dom.js";
import { qrCode } from "./enrolments.js";
import { arePossible, makePasskey } from "./passkeys.js";
import { act } from "./sections.js";

const at = (id) => document.getElementById(id);
const done = (sentence) => { at("done").textContent = sentence; };

async function load() {
  const state = await fetchJson("/api/account");
  if (at("stale")) at("stale").hidden = state.is_fresh;
  if (at("app-state")) showApp(state);
  if (at("passkeys")) list("passkeys", state.passkeys.map(passkeyEntry));
  if (at("sessions")) list("sessions", state.sessions.map(sessionEntry));
  for (const button of document.querySelectorAll("button.changes")) button.disabled = !state.is_fresh;
  return state;
}

function showApp(state) {
  const left = state.recovery_codes;
  at("app-state").textContent = state.app
    ? `An app is set up; ${left} recovery ${left === 1 ? "code is" : "codes are"} left.` : "No app is set up.";
  at("app-begin").hidden = state.app;
  at("app-codes").hidden = at("app-remove").hidden = !state.app;
}

function list(id, entries) {
  at(id).replaceChildren(...entries);
  if (!entries.length) at(id).append(element("li", { class: "soft" }, "None."));
}

/** A line with a button that ends what it says, after which `next` happens. */
function entry(line, label, name, url, next, changes) {
  const button = element("button", { type: "button", class: changes ? "changes" : null, "aria-label": `${label}: ${name}` }, label);
  button.addEventListener("click", () => act(async () => {
    await send("DELETE", url);
    await next();
  }));
  return element("li", {}, element("div", {}, ...line), button);
}

const passkeyEntry = (one) => entry([
  element("b", {}, one.name),
  element("p", { class: "note" }, "made ", time(one.made_at_utc), ", last used ",
    one.last_used_at_utc ? time(one.last_used_at_utc) : "never"),
], "Remove", one.name, `/api/account/passkeys/${one.passkey_id}`, opened, true);

const sessionEntry = (one) => entry([
  element("b", {}, one.is_of_a_program ? "A program" : one.browser || "A browser"),
  one.is_this ? element("span", { class: "badge" }, "this one") : null,
  element("p", { class: "note" }, "since ", time(one.started_at_utc), `, from ${one.source_address || "an address unknown"}`,
    one.means ? `, by ${one.means}` : "", ", until ", time(one.expires_at_utc)),
].filter(Boolean), one.is_this ? "Sign out" : "End", `session of ${one.started_at_utc}`,
`/api/account/sessions/${one.session_id}`, async () => { if (one.is_this) location.assign("/signin"); else await load(); });

/** After a factor was set up or removed: the page may have more, or less, to show than before. */
async function opened() {
  const before = Boolean(at("sessions"));
  const state = await load();
  if (before === state.must_enrol) location.reload();
}

const clicked = (id, work) => at(id)?.addEventListener("click", () => act(work));
const submitted = (id, work) => at(id)?.addEventListener("submit", (event) => {
  event.preventDefault();
  act(() => work(new FormData(event.target), event.target));
});

function showCodes(codes) {
  at("recovery-codes").replaceChildren(...codes.map((code) => element("li", {}, code)));
  at("recovery").hidden = false;
  at("recovery").focus();  // which also brings it into view
}

clicked("app-begin", async () => {
  const { key, qr_svg: svg } = await send("POST", "/api/account/app");
  at("qr").replaceChildren(qrCode(svg));
  at("app-key").value = key;
  at("enrolment").hidden = false;
  document.querySelector("#app-confirm [name=code]").focus();
});

submitted("app-confirm", async (fields, form) => {
  const { recovery_codes: codes } = await send("POST", "/api/account/app/confirmation", { code: fields.get("code") });
  form.reset();
  at("enrolment").hidden = true;
  at("qr").replaceChildren();
  at("app-key").value = "";
  showCodes(codes);
  done("The app counts from now on, and your other sessions have ended.");
  await load();
});

clicked("app-codes", async () => {
  showCodes((await send("POST", "/api/account/app/recovery-codes")).recovery_codes);
  done("The old recovery codes count no more.");
  await load();
});

clicked("app-remove", async () => {
  await send("DELETE", "/api/account/app");
  at("recovery").hidden = true;
  done("The app counts no more.");
  await opened();
});

submitted("passkey", async (fields, form) => {
  if (!arePossible()) throw new Error("This browser has no passkeys.");
  const options = await send("POST", "/api/account/passkeys/options");
  const credential = await makePasskey(options);
  await send("POST", "/api/account/passkeys", { name: fields.get("name").trim(), credential });
  form.reset();
  done("The passkey is kept, and your other sessions have ended.");
  await opened();
});

submitted("password", async (fields) => {
  await send("POST", "/api/account/password", { current: fields.get("current"), new: fields.get("new") });
  location.assign("/signin?next=/account");
});

submitted("reset", async (fields, form) => {
  await send("POST", "/api/factor-resets", { username: fields.get("username").trim() });
  form.reset();
  done(`${fields.get("username")} signs in with the password alone now.`);
});

clicked("everywhere", async () => {
  await send("DELETE", "/api/me/sessions");
  location.assign("/signin");
});

act(load);
