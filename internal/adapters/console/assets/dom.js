// Elements, and answers of the API. Nothing here makes markup of text: what decisions say is hostile.

/** Where docket's pages begin, behind a proxy. */
export const prefix = document.documentElement.dataset.prefix ?? "";

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
 * @returns {Promise<any>}
 */
export async function ask(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) {
    throw new Error(body.detail ?? answer.statusText);
  }
  return body;
}

/**
 * The address of the search with other parameters, from its first page on.
 * @param {Record<string, string>} params
 * @returns {string}
 */
export function searchWith(params) {
  const next = new URLSearchParams(location.search);
  next.delete("cursor");
  for (const [name, value] of Object.entries(params)) {
    next.set(name, value);
  }
  return `${prefix}/decisions?${next}`;
}
