// Rows of decisions: those that come while somebody looks, and what is in one.
import { ask, make, prefix, Spelled, spelled } from "./dom.js";
import { localTimes } from "./times.js";

/**
 * @typedef {object} Decision
 * @property {string} decision_id
 * @property {string} time
 * @property {string | null} timestamp
 * @property {string} tenant
 * @property {string} outcome
 * @property {string | null} principal
 * @property {string | null} action
 * @property {string | null} resource
 * @property {string | null} path
 * @property {string | null} reason
 * @property {string | null} error
 * @property {any} [event]
 */

// How much of an event is shown in place. All of it is on the decision's page.
const maxNodes = 300;
const maxText = 300;

// Words that stand in the API where an id does: an id that is one of them is escaped more than it needs.
const words = ["compare", "contrast", "export", "fields", "stats", "tail"];

/** @param {Decision} d */
function addressOf(d) {
  const address = new URLSearchParams({ tenant: d.tenant });
  if (d.timestamp) { // without one, what is stored may have come at another time
    address.set("timestamp", d.timestamp);
  }
  const id = words.includes(d.decision_id)
    ? `%${d.decision_id.charCodeAt(0).toString(16)}${d.decision_id.slice(1)}`
    : encodeURIComponent(d.decision_id);
  return `/decisions/${id}?${address}`;
}

/**
 * A row as the server makes it.
 * @param {Decision} d
 * @returns {HTMLElement}
 */
export function makeRow(d) {
  const row = make("tr", { "data-decision": `${prefix}/api/v1${addressOf(d)}`, class: "new" });
  const address = new URLSearchParams({ id: d.decision_id, tenant: d.tenant, timestamp: d.time });
  row.append(make("td", {}, make("input", {
    type: "checkbox", form: "compare", name: "pick", value: address.toString(),
    "aria-label": `Compare the decision ${d.decision_id}`,
  })));
  row.append(make("td", { "data-label": "Time" },
    make("a", { href: prefix + addressOf(d) }, make("time", { datetime: d.time }, d.time))));
  row.append(make("td", { "data-label": "Outcome" }, make("span", { class: `outcome ${d.outcome}` }, d.outcome)));
  const texts = { Principal: d.principal, Action: d.action, Resource: d.resource, Policy: d.path, Reason: d.reason ?? d.error };
  for (const [label, text] of Object.entries(texts)) {
    row.append(make("td", { "data-label": label, title: text ?? "" }, text ?? make("span", { class: "none" }, "–")));
  }
  localTimes(row);
  return row;
}

/**
 * Opens a row in place, or closes it.
 * @param {HTMLTableRowElement} row
 */
export async function toggleRow(row) {
  const next = row.nextElementSibling;
  if (next?.classList.contains("place")) {
    next.remove();
    return;
  }
  const cell = make("td", { colspan: String(row.cells.length) }, "…");
  const place = make("tr", { class: "place" }, cell);
  row.after(place);
  try {
    /** @type {Decision} */
    const d = await ask(row.dataset.decision ?? "", spelled);
    cell.replaceChildren(...partsOf(d));
  } catch (error) {
    cell.replaceChildren(make("p", { class: "trouble", role: "alert" }, String(error)));
  }
}

/**
 * @param {Decision} d
 * @returns {Node[]}
 */
function partsOf(d) {
  const left = { nodes: maxNodes };
  const parts = [];
  for (const name of ["input", "result", "error", "rule_labels", "custom", "nd_builtin_cache"]) {
    if (d.event?.[name] !== undefined) {
      parts.push(branch(name, d.event[name], left));
    }
  }
  return [
    make("ul", { class: "tree" }, ...parts),
    make("p", {}, make("a", { href: prefix + addressOf(d) }, "All about this decision")),
  ];
}

/**
 * @param {string} key
 * @param {any} value
 * @param {{nodes: number}} left
 * @returns {HTMLElement}
 */
function branch(key, value, left) {
  left.nodes--;
  const name = make("span", { class: "key" }, key);
  if (value === null || typeof value !== "object" || value instanceof Spelled) {
    const number = value instanceof Spelled || typeof value === "number";
    const text = value instanceof Spelled ? value.text : String(value);
    const kind = number ? "number" : typeof value === "string" ? "string" : "word";
    return make("li", {}, name, make("span", { class: `leaf ${kind}` }, text.slice(0, maxText)),
      text.length > maxText ? make("span", { class: "note" }, `… ${text.length - maxText} characters more`) : "");
  }
  const list = make("ul");
  const entries = Object.entries(value);
  let shown = 0;
  for (const [k, v] of entries) {
    if (left.nodes <= 0) {
      break;
    }
    list.append(branch(k, v, left));
    shown++;
  }
  if (shown < entries.length) {
    list.append(make("li", { class: "note" }, `${entries.length - shown} more`));
  }
  const details = make("details", { open: "" }, make("summary", {}, name), list);
  return make("li", {}, details);
}
