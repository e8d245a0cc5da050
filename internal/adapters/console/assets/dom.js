// Elements, and answers of the API. Nothing here makes markup of text: what decisions say is hostile.

/** Where docket's pages begin, behind a proxy. */
export const prefix = document.documentElement.dataset.prefix ?? "";

/** @type {WeakSet<Element>} */
const seen = new WeakSet();

/**
 * Whether an element is there that was not seen before.
 * @param {Element | null | undefined} element
 */
export function fresh(element) {
  if (!element || seen.has(element)) {
    return false;
  }
  seen.add(element);
  return true;
}

/**
 * Makes an element.
 * @param {string} name
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/**
 * Asks the API. Its error says what a problem's detail says.
 * @param {string} url
 * @param {(key: string, value: any) => any} [reviver]
 * @returns {Promise<any>}
 */
export async function ask(url, reviver) {
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  const text = await answer.text();
  const body = /^\s*[{[]/.test(text) ? JSON.parse(text, reviver) : {};
  if (!answer.ok) {
    throw new Error(body.detail ?? answer.statusText);
  }
  return body;
}

/** A number as JSON spells it: to a script 12345678901234567890 is another one. */
export class Spelled {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/**
 * For JSON.parse: numbers as they are spelled, where the browser tells.
 * @param {string} _key
 * @param {any} value
 * @param {{source?: string}} [context]
 */
export function spelled(_key, value, context) {
  return typeof value === "number" && context?.source !== undefined ? new Spelled(context.source) : value;
}
