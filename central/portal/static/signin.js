// The button on the sign-in page that signs in with a passkey.

import { send, showing } from "./dom.js";
import { arePossible, showPasskey } from "./passkeys.js";

const button = document.getElementById("passkey");
button.hidden = !arePossible();
button.addEventListener("click", () => showing(async () => {
  const credential = await showPasskey(await send("POST", "/api/signin/passkey/options"));
  await send("POST", "/api/signin/passkey", { credential });
  location.assign(button.dataset.next);
}));
