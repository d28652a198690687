// The sharing page: who may see which single study, and whose consent is withdrawn.

import { element, time } from "./dom.js";
import { act, endOfDay, section, showSecret } from "./sections.js";

// Who manages access goes on from a study to all who may see it.
const uid = (study) => ("mayManage" in document.querySelector(".sections").dataset
  ? element("a", { class: "code", href: `/access?study=${encodeURIComponent(study)}` }, study)
  : element("span", { class: "code" }, study));
const until = (iso) => (iso ? element("span", {}, "until ", time(iso)) : "until it is ended");

const sections = [
  section({
    list: "links", form: "link", url: "/api/guest-links", key: "links", id: "link_id",
    wish: (fields) => ({
      study_instance_uid: fields.get("study_instance_uid").trim(), days: Number(fields.get("days")),
      max_uses: Number(fields.get("max_uses")), pin: fields.get("pin"), note: fields.get("note").trim(),
    }),
    line: (link) => [
      element("b", {}, link.note || "somebody"), " may look at ", uid(link.study_instance_uid), " ", until(link.ends_at_utc),
      element("p", { class: "note" }, `opened ${link.uses} of ${link.max_uses} times, `,
        link.has_pin ? `PIN, wrong ${link.wrong_pins} of 10 times` : "no PIN", `, by ${link.host}`),
    ],
    warning: "End this link? It cannot be had back: a new one has to be sent.",
    done: (link) => {
      showSecret(location.origin + link.path);
      return "The link is made. Send it; tell the PIN by another way.";
    },
  }),
  section({
    list: "rules", form: "rule", url: "/api/study-rules", key: "rules", id: "rule_id",
    wish: (fields) => ({
      kind: fields.get("kind"), username: fields.get("username").trim(), reason: fields.get("reason").trim(),
      study_instance_uid: fields.get("study_instance_uid").trim(), until_utc: endOfDay(fields.get("until")),
    }),
    line: (rule) => [
      element("b", {}, rule.username), rule.kind === "grant" ? " may see " : " must not see ",
      uid(rule.study_instance_uid), " ", until(rule.until_utc),
      element("p", { class: "note" }, `${rule.reason} (${rule.made_by}, `, time(rule.made_at_utc), ")"),
    ],
    again: ({ kind, username, reason, study_instance_uid, until_utc, institution }) => (
      { kind, username, reason, study_instance_uid, until_utc, institution }),
    done: (rule) => `This holds for ${rule.username} from now on.`,
  }),
  section({
    list: "assignments", form: "assignment", url: "/api/assignments", key: "assignments", id: "assignment_id",
    wish: (fields) => ({
      username: fields.get("username").trim(), until_utc: endOfDay(fields.get("until")),
      study_instance_uid: fields.get("study_instance_uid").trim(),
      patient_id: fields.get("patient_id").trim(), issuer_of_patient_id: fields.get("issuer_of_patient_id").trim(),
    }),
    line: (one) => [
      element("b", {}, one.username), " looks after ",
      ...(one.study_instance_uid ? [uid(one.study_instance_uid)]
        : ["patient ", element("span", { class: "code" }, one.patient_id),
          one.issuer_of_patient_id ? ` of ${one.issuer_of_patient_id}` : ""]),
      " ", until(one.until_utc),
      element("p", { class: "note" }, `${one.by_order ? "by order, " : ""}${one.made_by}, `, time(one.made_at_utc)),
    ],
    again: ({ username, until_utc, study_instance_uid, patient_id, issuer_of_patient_id }) => (
      { username, until_utc, study_instance_uid, patient_id, issuer_of_patient_id }),
    done: (one) => `Assigned to ${one.username} from now on.`,
  }),
  section({
    list: "withdrawals", form: "withdrawal", url: "/api/consent-withdrawals", key: "withdrawals", id: "withdrawal_id",
    wish: (fields) => ({
      patient_id: fields.get("patient_id"), issuer_of_patient_id: fields.get("issuer_of_patient_id"),
      exceptions: fields.get("exceptions").split(/[\s,]+/).filter(Boolean),
    }),
    line: (one) => [
      element("b", { class: "code" }, one.patient_id), one.issuer_of_patient_id ? ` of ${one.issuer_of_patient_id}` : "",
      `, ${one.studies} studies`, one.exceptions.length ? `, except ${one.exceptions.join(", ")}` : "",
      element("p", { class: "note" }, `${one.made_by}, `, time(one.made_at_utc)),
    ],
    again: ({ patient_id, issuer_of_patient_id, exceptions }) => ({ patient_id, issuer_of_patient_id, exceptions }),
    warning: "The patient consents again? The studies open at once for everybody whose they are.",
    done: (answer) => (answer.studies
      ? `Withdrawn: ${answer.studies} studies are closed.`
      : "Withdrawn. No study here carries this Patient ID and issuer: are both written as on the images?"),
  }),
].filter(Boolean);

const asked = new URLSearchParams(location.search).get("study");
if (asked) for (const field of document.querySelectorAll("[name=study_instance_uid]")) field.value = asked;
act(() => Promise.all(sections.map((load) => load())));
