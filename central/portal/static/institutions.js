// Institutions, which stay once they are there, and what they have agreed on, which ends by hand.

import { element, fetchJson, say, send, time } from "./dom.js";
import { act, section } from "./sections.js";

const sections = [
  section({
    list: "institutions", form: "institution", url: "/api/institutions", key: "institutions",
    wish: (fields) => ({ institution: fields.get("institution").trim(), name: fields.get("name").trim() }),
    line: (one) => [element("b", { class: "code" }, one.institution), one.name ? ` ${one.name}` : ""],
    done: (one) => `${one.institution} is there. Pair its boxes and add its accounts with its name.`,
  }),
  section({
    list: "agreements", form: "agreement", url: "/api/agreements", key: "agreements", id: "agreement_id",
    wish: (fields) => ({
      sharing: fields.get("sharing"), opened_by: fields.get("opened_by").trim(), opened_to: fields.get("opened_to").trim(),
    }),
    line: (one) => [
      element("b", { class: "code" }, one.opened_by), " opens to ", element("b", { class: "code" }, one.opened_to),
      ` for ${one.sharing}`, element("p", { class: "note" }, `${one.made_by}, `, time(one.made_at_utc)),
    ],
    again: ({ sharing, opened_by, opened_to }) => ({ sharing, opened_by, opened_to }),
    done: () => "This holds from now on.",
  }),
];

/** Boxes, each with a button that asks where to move it and says what that means. */
async function loadBoxes() {
  const found = (await fetchJson("/api/gateways/institutions")).gateways;
  document.getElementById("gateways").replaceChildren(...found.map((box) => {
    const button = element("button", { type: "button", "aria-label": `Move ${box.gateway_id}` }, "Move");
    button.addEventListener("click", () => act(() => askWhere(box)));
    return element("li", {}, element("div", {}, element("b", { class: "code" }, box.gateway_id),
      box.name && box.name !== box.gateway_id ? ` ${box.name}` : "", " is of ", element("b", { class: "code" }, box.institution),
      box.is_revoked ? ", revoked" : ""), button);
  }));
  if (!found.length) document.getElementById("gateways").append(element("li", { class: "soft" }, "No box has enrolled yet."));
}

const dialog = document.getElementById("move");
const form = document.getElementById("moving");
let asked = null;  // the box that the dialog is about

async function askWhere(box) {
  const institutions = (await fetchJson("/api/institutions")).institutions.map((one) => one.institution);
  const others = institutions.filter((name) => name !== box.institution);
  if (!others.length) throw new Error("There is no other institution: add it first.");
  asked = box;
  form.elements.institution.replaceChildren(...others.map((name) => element("option", {}, name)));
  write(".gateway", box.gateway_id);
  write(".former", box.institution);
  write(".new", form.elements.institution.value);
  say("", "move-message");
  dialog.showModal();
}

function write(selector, text) {
  for (const place of dialog.querySelectorAll(selector)) place.textContent = text;
}

if (dialog) {
  sections.push(loadBoxes);
  form.elements.institution.addEventListener("change", (event) => write(".new", event.target.value));
  document.getElementById("stay").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wish = { gateway_id: asked.gateway_id, former: asked.institution, institution: form.elements.institution.value };
    try {
      const moved = await send("POST", "/api/gateways/institution", wish);
      dialog.close();
      await act(loadBoxes);
      document.getElementById("done").textContent = `${moved.gateway_id} is ${moved.institution}'s from now on.`;
    } catch (error) {
      say(error.message, "move-message");
    }
  });
}

act(() => Promise.all(sections.map((load) => load())));
