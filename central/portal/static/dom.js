// Small helpers of the portal's pages. Everything that comes from data becomes text, never markup.

/** An element with attributes (or properties that begin with a dot) and children; strings become text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Fetch JSON from this server. Signed out: to the sign-in page and back. Throws an Error with a sentence. */
export async function fetchJson(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("Central does not answer. This page tries again by itself.");
  }
  if (response.status === 401) {
    location.assign("/signin?next=" + encodeURIComponent(location.pathname + location.search));
    return new Promise(() => {});  // the page is leaving
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `Central answered ${response.status}.`);
  }
  return response.status === 204 ? null : response.json();
}

/** Send a wish as JSON; what `fetchJson` answers. */
export const send = (method, url, wish) => fetchJson(url, wish === undefined ? { method } : {
  method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish),
});

/** Show `text` in the page's message line; "" takes it away. */
export function say(text, id = "message") {
  const line = document.getElementById(id);
  line.textContent = text;
  line.hidden = !text;
}

/** Do something, and show on the page how it went. */
export async function showing(work) {
  try {
    await work();
    say("");
    document.documentElement.dataset.state = "ready";
  } catch (error) {
    say(error.message);
    document.documentElement.dataset.state = "error";
  }
}

const two = (number) => String(number).padStart(2, "0");

/** An ISO time in local time, to the second; the tooltip has UTC. */
export function time(iso) {
  if (!iso) return document.createTextNode("–");
  const at = new Date(iso);
  const text = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} `
    + `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return element("time", { datetime: iso, title: at.toISOString().replace("T", " ").slice(0, 19) + " UTC" }, text);
}

/** "3 min": how long between two times. */
export function span(fromIso, toIso) {
  const seconds = Math.max(0, (new Date(toIso) - new Date(fromIso)) / 1000);
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

/** "1.4 GB" */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = count;
  for (; value >= 1000 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Run `work` every `seconds` while the page is visible, and at once when it becomes so again. */
export function keepFresh(seconds, work) {
  setInterval(() => { if (!document.hidden) work(); }, seconds * 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) work(); });
}
