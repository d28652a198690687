// Lists with a form above: what the sharing and token pages are made of. Each list shows what holds now.

import { element, fetchJson, send, showing } from "./dom.js";

/** One list on this page, and the form above it; whichever the page does not have is left out. Entries have a button that
 *  ends them, but for those without an id and those of a list with `data-fixed`. What ended can be undone where `again` gives
 *  the wish that makes the entry once more; else `warning` is asked first. */
export function section({ list, form, url, key, id, wish, line, done, again, warning }) {
  const place = document.getElementById(list);
  if (!place) return null;
  async function load() {
    const found = (await fetchJson(url))[key];
    place.replaceChildren(...found.map((entry) => {
      if (!id || "fixed" in place.dataset) return element("li", {}, element("div", {}, ...line(entry)));
      const button = element("button", { type: "button", "aria-label": `End: ${place.ariaLabel} ${entry[id]}` }, "End");
      button.addEventListener("click", () => {
        if (warning && !confirm(warning)) return;
        act(async () => {
          await send("DELETE", `${url}/${entry[id]}`);
          await load();
          doneWithUndo("Ended.", again && (async () => {
            await send("POST", url, again(entry));
            await load();
          }));
        });
      });
      return element("li", {}, element("div", {}, ...line(entry)), button);
    }));
    if (!found.length) place.append(element("li", { class: "soft" }, "Nothing holds now."));
  }
  document.getElementById(form)?.addEventListener("submit", (event) => {
    event.preventDefault();
    act(async () => {
      const answer = await send("POST", url, wish(new FormData(event.target)));
      event.target.reset();
      document.getElementById("done").textContent = done(answer);
      await load();
    });
  });
  return load;
}

/** Do something, and show how it went in place of what was done before. */
export function act(what) {
  document.getElementById("done").textContent = "";
  return showing(what);
}

/** Say what was done; `undo`, where it is given, is behind a button beside it. */
export function doneWithUndo(sentence, undo) {
  const place = document.getElementById("done");
  place.replaceChildren(sentence);
  if (!undo) return;
  const button = element("button", { type: "button", class: "undo" }, "Undo");
  button.addEventListener("click", () => act(async () => {
    await undo();
    place.textContent = "Undone.";
  }));
  place.append(" ", button);
  button.focus();
}

/** The end of a day here, as an ISO time; null for none. */
export const endOfDay = (day) => (day ? new Date(`${day}T23:59:59`).toISOString() : null);

/** Show a secret this once, in a field to copy it from. */
export function showSecret(text) {
  const field = document.querySelector("#made input");
  field.value = text;
  document.getElementById("made").hidden = false;
  field.focus();
  field.select();
}

document.getElementById("copy")?.addEventListener("click", () => {
  const field = document.querySelector("#made input");
  field.select();
  navigator.clipboard?.writeText(field.value);
});
