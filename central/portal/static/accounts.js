// Accounts: where somebody is signed in, blocked and let in again, departments and boxes.

import { element, send, time } from "./dom.js";
import { act, doneWithUndo } from "./sections.js";

const list = document.getElementById("accounts");
const form = document.getElementById("search");
const more = document.getElementById("more");

const names = (text) => text.split(",").map((name) => name.trim()).filter(Boolean);

function button(text, username, what) {
  const made = element("button", { type: "button", "aria-label": `${text}: ${username}` }, text);
  made.addEventListener("click", () => what(made));
  return made;
}

/** Do one step with an account, and show how it stands after. */
async function step(what, username, wish = {}) {
  const answer = await send("POST", `/api/accounts/${what}`, { username, ...wish });
  await load();
  return answer;
}

function block(one) {
  if (!confirm(`Block ${one.username}? They are signed out everywhere, and their API tokens end for good.`)) return;
  act(async () => {
    await step("block", one.username);
    doneWithUndo(`${one.username} is let in no more.`, () => step("unblock", one.username));
  });
}

const unblock = (one) => act(async () => {
  await step("unblock", one.username);
  doneWithUndo(`${one.username} may sign in again.`, () => step("block", one.username));
});

function signOut(one) {
  if (!confirm(`Sign ${one.username} out everywhere? Their API tokens end for good.`)) return;
  act(async () => {
    await step("sign-out", one.username);
    doneWithUndo(`${one.username} is signed out everywhere.`);
  });
}

/** The sessions of an account, below it. */
async function showSessions(one, place) {
  const { sessions } = await send("POST", "/api/accounts/sessions", { username: one.username });
  const lines = sessions.map((session) => element("div", { class: "behind" },
    element("p", { class: "note" }, session.is_of_a_program ? "a program" : session.browser || "a browser",
      `, by ${session.means || "a way that was not kept"}, from ${session.source_address || "an address that was not kept"}, since `,
      time(session.started_at_utc), ", until ", time(session.expires_at_utc)),
    button("End", `session of ${one.username} from ${session.source_address}`, () => act(async () => {
      await send("POST", "/api/accounts/sign-out", { username: one.username, session_id: session.session_id });
      await showSessions(one, place);
      doneWithUndo("The session is ended.");
    }))));
  place.replaceChildren(...lines);
  if (!lines.length) place.append(element("p", { class: "note" }, "Signed in nowhere."));
  place.hidden = false;
}

/** Departments and boxes of an account, to be changed. */
function placesForm(one) {
  const made = element("form", { class: "filters wrap", hidden: true, "aria-label": `Departments and boxes of ${one.username}` },
    element("label", { class: "wide" }, "Departments, with commas",
      element("input", { name: "departments", autocomplete: "off", value: one.departments.join(", ") })),
    element("label", {}, "Boxes, with commas",
      element("input", { name: "gateway_ids", autocomplete: "off", spellcheck: "false", value: one.gateway_ids.join(", ") })),
    element("div", { class: "buttons" }, element("button", { type: "submit", class: "primary" }, "Change")));
  made.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = new FormData(made);
    const before = { departments: one.departments, gateway_ids: one.gateway_ids };
    act(async () => {
      await step("places", one.username, {
        departments: names(fields.get("departments")), gateway_ids: names(fields.get("gateway_ids")),
      });
      doneWithUndo(`Changed for ${one.username}, from the next request on.`, () => step("places", one.username, before));
    });
  });
  return made;
}

function line(one) {
  const sessions = element("div", { hidden: true });
  const places = one.has_places ? placesForm(one) : null;
  const facts = [
    one.is_of_a_provider ? "signs on at a provider" : `password${one.second_factors ? ` and ${one.second_factors}` : " alone"}`,
    one.departments.length ? `departments: ${one.departments.join(", ")}` : "",
    one.gateway_ids.length ? `boxes: ${one.gateway_ids.join(", ")}` : "",
    one.institution === "default" ? "" : one.institution === "*" ? "of the whole central" : `of ${one.institution}`,
  ].filter(Boolean).join("; ");
  return element("li", { "data-account": one.username },
    element("div", {}, element("b", {}, one.username), " ", element("span", { class: "role" }, one.role),
      one.is_blocked ? element("span", { class: "badge" }, "blocked") : null,
      element("p", { class: "note" }, facts), sessions, places),
    element("div", { class: "buttons" },
      button("Sessions", one.username, () => act(() => showSessions(one, sessions))),
      places ? button("Departments and boxes", one.username, () => {
        places.hidden = !places.hidden;
        if (!places.hidden) places.elements.departments.focus();
      }) : null,
      button("Sign out", one.username, () => signOut(one)),
      one.is_own ? null : one.is_blocked
        ? button("Unblock", one.username, () => unblock(one)) : button("Block", one.username, () => block(one))));
}

/** Show those that are searched for, from the first, or behind `after`. */
async function load(after = "") {
  const wish = { name: new FormData(form).get("name").trim(), after };
  const { accounts, next_after } = await send("POST", "/api/accounts/search", wish);
  if (!after) list.replaceChildren();
  list.append(...accounts.map(line));
  if (!list.children.length) list.append(element("li", { class: "soft" }, "No account is called so."));
  more.hidden = next_after === null;
  more.dataset.after = next_after ?? "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  act(() => load());
});
more.addEventListener("click", () => act(() => load(more.dataset.after)));
act(() => load());
