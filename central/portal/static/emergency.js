// Emergency access: the doctor's form, and the openings with their reviews. What waits for a review comes first.

import { element, fetchJson, send, showing, time } from "./dom.js";

const list = document.getElementById("openings");
const mayReview = list.dataset.mayReview !== undefined;
const VERDICTS = { justified: "Justified", "not-justified": "Not justified" };

/** The two buttons of a review, with a comment. */
function reviewForm(opening) {
  const comment = element("input", { "aria-label": `Comment on what ${opening.username} did`, maxlength: 1000,
    placeholder: "Comment", autocomplete: "off" });
  const buttons = Object.entries(VERDICTS).map(([verdict, label]) => {
    const button = element("button", { type: "button", "data-verdict": verdict }, label);
    button.addEventListener("click", () => showing(async () => {
      await send("POST", `/api/emergencies/${opening.opening_id}/review`, { verdict, comment: comment.value });
      document.dispatchEvent(new Event("reviewed"));
      await load();
    }));
    return button;
  });
  return element("div", { class: "buttons" }, comment, ...buttons);
}

const line = (opening) => element("li", { "data-opening": opening.opening_id }, element("div", {},
  element("b", {}, opening.username), " opened ", element("span", { class: "code" }, opening.study_instance_uid), " ",
  time(opening.opened_at_utc), " until ", time(opening.until_utc),
  element("p", {}, opening.reason),
  opening.verdict
    ? element("p", { class: "note" }, `${VERDICTS[opening.verdict]}, ${opening.reviewed_by}, `,
      time(opening.reviewed_at_utc), opening.comment ? `: ${opening.comment}` : "")
    : mayReview && !opening.is_own ? reviewForm(opening) : element("p", { class: "note" }, "Not reviewed yet.")));

async function load() {
  const { openings } = await fetchJson("/api/emergencies");
  list.replaceChildren(...openings.map(line));
  if (!openings.length) list.append(element("li", { class: "soft" }, "Nothing was opened."));
}

document.getElementById("open")?.addEventListener("submit", (event) => {
  event.preventDefault();
  showing(async () => {
    const fields = Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, value.trim()]));
    const answer = await send("POST", "/api/emergencies", fields);
    location.assign("/viewer/?study=" + encodeURIComponent(answer.study_instance_uid));
  });
});
showing(load);
