// API tokens: made, listed and ended. A new one's secret is shown once, in a field to copy it from.

import { element, time } from "./dom.js";
import { act, section, showSecret } from "./sections.js";

act(section({
  list: "tokens", form: "token", url: "/api/tokens", key: "tokens", id: "token_id",
  wish: (fields) => ({
    label: fields.get("label").trim(), days: Number(fields.get("days")), actions: fields.getAll("actions"),
  }),
  line: (token) => [
    element("b", {}, token.label), ` may ${token.actions.join(", ")} until `, time(token.expires_at_utc),
    element("p", { class: "note" }, `${token.owner}, last used `,
      token.last_used_at_utc ? time(token.last_used_at_utc) : "never"),
  ],
  warning: "End this token? It cannot be had back: the program needs a new one.",
  done: (token) => {
    showSecret(token.token);
    return "The token is made. Give it to the program now.";
  },
}));
