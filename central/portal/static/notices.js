// What waits for an administrator: a number behind the link to its page, on every page.

import { element, fetchJson, keepFresh } from "./dom.js";

const NOTICES = [
  { page: "/emergency", url: "/api/emergencies/unreviewed", key: "unreviewed", what: "to review" },
  { page: "/erasing", url: "/api/erasures/waiting", key: "waiting", what: "to confirm" },
];

async function look({ page, url, key, what }) {
  const link = document.querySelector(`nav a[href='${page}']`);
  const count = (await fetchJson(url).catch(() => ({})))[key] ?? null;
  if (!link || count === null) return;  // the page itself says that central does not answer
  link.querySelector(".badge")?.remove();
  if (count) link.append(element("span", { class: "badge", "aria-label": `${count} ${what}` }, String(count)));
}

const lookAtAll = () => NOTICES.forEach(look);
document.addEventListener("reviewed", lookAtAll);
keepFresh(60, lookAtAll);
lookAtAll();
