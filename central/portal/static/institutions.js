// Institutions, which stay once they are there, and what they have agreed on, which ends by hand.

import { element, time } from "./dom.js";
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

act(() => Promise.all(sections.map((load) => load())));
