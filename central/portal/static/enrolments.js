// Boxes that want in, boxes that are replaced or let in no more, and pairing strings as QR codes.

import { element, fetchJson, send, span } from "./dom.js";

const post = (url, wish) => send("POST", url, wish);

/** A QR code that this server drew: parsed as an image's XML, in which nothing runs under this page's policy. */
export function qrCode(svg) {
  return document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true);
}

/** The waiting boxes, each with its fingerprint to compare and two buttons. `done` after a decision, `failed` with a sentence. */
export async function showPending(place, now, done, failed) {
  const waiting = (await fetchJson("/api/gateways/pending")).boxes;
  const decide = (box, decision, label) => {
    const button = element("button", { type: "button", class: decision === "accepted" ? "primary" : null }, label);
    button.addEventListener("click", async () => {
      try {
        await post("/api/gateways/decision", { fingerprint: box.fingerprint, decision });
        done();
      } catch (error) {
        failed(error.message);
      }
    });
    return button;
  };
  place.replaceChildren(...waiting.map((box) => element("article", { class: "box", "data-fingerprint": box.fingerprint },
    element("header", {},
      element("h2", {}, box.replaces ? `A box in the place of ${box.replaces}` : box.name || "A box without a name"),
      element("span", { class: "pill" }, "Waiting to be accepted"),
      element("span", { class: "soft" }, `for ${span(box.requested_at_utc, now)}, from ${box.source_address}`)),
    element("p", {}, "Its key's fingerprint, to be compared with what the box shows: ",
      element("b", { class: "code" }, box.fingerprint)),
    element("div", { class: "buttons" }, decide(box, "refused", "Refuse"), decide(box, "accepted", "Accept")))));
}

/** Replace and revoke, for one box. `pair` gets the answer with a pairing string; `done` after a revocation. */
export function membership(box, pair, done, failed) {
  const act = (label, what) => {
    const button = element("button", { type: "button", "data-act": label }, label);
    button.addEventListener("click", async () => {
      try {
        await what();
      } catch (error) {
        failed(error.message);
      }
    });
    return button;
  };
  return element("div", { class: "buttons" },
    act("Replace this box", async () => pair(await post("/api/gateways/replacement", { gateway_id: box.gateway_id }))),
    box.revoked ? null : act("Revoke", async () => {
      if (!window.confirm(`Let ${box.name || box.gateway_id} in no more? What it holds stays on it until it is replaced.`)) return;
      const answer = await post("/api/gateways/revocation", { gateway_id: box.gateway_id });
      done();
      if (answer.trouble) failed(answer.trouble);
    }));
}
