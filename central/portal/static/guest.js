// A guest's link. Its token comes in the fragment, which is never sent with an address; it is taken out of the address
// line at once and leaves this page in one request's body only.

import { say, send } from "./dom.js";

const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const form = document.getElementById("enter");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const answer = await send("POST", "/api/guest/session", { token, pin: new FormData(form).get("pin").trim() });
    location.replace("/viewer/?study=" + encodeURIComponent(answer.study_instance_uid));
  } catch (error) {
    say(error.message);
    button.disabled = false;
  }
});
if (!token) {
  say("This is only a part of the link. Open it again from where you were sent it, as a whole.");
  form.querySelector("button").disabled = true;
}
document.documentElement.dataset.state = "ready";
