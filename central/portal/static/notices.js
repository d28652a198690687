// How many emergency openings wait for a review: a number behind the link to their page, on every page.

import { element, fetchJson, keepFresh } from "./dom.js";

const link = document.querySelector("nav a[href='/emergency']");

async function look() {
  const { unreviewed } = await fetchJson("/api/emergencies/unreviewed").catch(() => ({ unreviewed: null }));
  if (unreviewed === null) return;  // the page itself says that central does not answer
  link.querySelector(".badge")?.remove();
  if (unreviewed) link.append(element("span", { class: "badge", "aria-label": `${unreviewed} to review` }, String(unreviewed)));
}

document.addEventListener("reviewed", look);
keepFresh(60, look);
look();
