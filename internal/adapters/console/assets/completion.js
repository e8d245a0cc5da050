// Completion in the search bar: names of fields, and behind a colon the values that decisions have most often.
import { ask, fresh, make, prefix } from "./dom.js";

const plain = /^[\p{L}\p{N}_./:@$+=~#%&?!,;|<>^-]+$/u;

/** Completes in the search bar, where there is one. */
export function completion() {
  const input = document.getElementById("q");
  if (input instanceof HTMLInputElement && input.dataset.fields && fresh(input)) {
    new Completion(input, input.dataset.fields.split(" "));
  }
}

class Completion {
  /**
   * @param {HTMLInputElement} input
   * @param {string[]} fields
   */
  constructor(input, fields) {
    this.input = input;
    this.fields = fields;
    this.list = make("ul", { class: "suggestions", id: "suggestions", role: "listbox", "aria-label": "Suggestions" });
    this.list.hidden = true;
    this.chosen = -1;
    /** @type {Map<string, Promise<{value: string, count: number}[]>>} */
    this.values = new Map();
    for (const [name, value] of Object.entries({
      role: "combobox", "aria-autocomplete": "list", "aria-controls": "suggestions", "aria-expanded": "false",
    })) {
      input.setAttribute(name, value);
    }
    input.after(this.list);
    input.addEventListener("input", () => this.suggest());
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
  }

  /** The word in front of the caret. */
  word() {
    const before = this.input.value.slice(0, this.input.selectionStart ?? 0);
    return /(?:[^\s()"]|"(?:[^"\\]|\\.)*"?)*$/.exec(before)?.[0] ?? "";
  }

  async suggest() {
    const word = this.word();
    const bare = word.replace(/^-/, "");
    const colon = bare.indexOf(":");
    if (bare === "") {
      this.close();
    } else if (colon < 0) {
      this.show(word, this.fields.filter((f) => f.startsWith(bare) && f !== bare).map((f) => ({ text: f, insert: `${f}:`, note: "" })));
    } else {
      await this.suggestValues(word, bare.slice(0, colon), bare.slice(colon + 1).replace(/^"/, ""));
    }
  }

  /**
   * @param {string} word
   * @param {string} field
   * @param {string} typed
   */
  async suggestValues(word, field, typed) {
    const wanted = typed.toLowerCase();
    /** @type {{value: string, count: number}[]} */
    let values;
    try {
      values = await this.valuesOf(field);
    } catch {
      values = []; // it is no field yet
    }
    if (this.word() !== word || document.activeElement !== this.input) {
      return; // somebody typed on, or left
    }
    this.show(word, values.filter((v) => v.value.toLowerCase().includes(wanted) && v.value !== typed).map((v) => ({
      text: v.value, insert: `${field}:${plain.test(v.value) ? v.value : `"${v.value.replace(/["\\]/g, "\\$&")}"`} `, note: String(v.count),
    })));
  }

  /** @param {string} field */
  valuesOf(field) {
    let values = this.values.get(field);
    if (!values) {
      const since = new URLSearchParams(location.search).get("since") ?? "24h";
      const url = `${prefix}/api/v1/decisions/fields/${encodeURIComponent(field)}?${new URLSearchParams({ since, limit: "50" })}`;
      values = ask(url).then((found) => found.items);
      values.catch(() => this.values.delete(field));
      this.values.set(field, values);
    }
    return values;
  }

  /**
   * @param {string} word
   * @param {{text: string, insert: string, note: string}[]} found
   */
  show(word, found) {
    this.list.replaceChildren(...found.slice(0, 12).map((f, i) => {
      const item = make("li", { role: "option", id: `suggestion-${i}`, "aria-selected": "false" },
        make("span", {}, f.text), make("span", { class: "count" }, f.note));
      item.addEventListener("mousedown", (event) => {
        event.preventDefault(); // the bar keeps the focus
        this.take(word, f.insert);
      });
      item.dataset.insert = f.insert;
      return item;
    }));
    this.chosen = -1;
    this.list.hidden = found.length === 0;
    this.input.setAttribute("aria-expanded", String(found.length > 0));
    this.input.removeAttribute("aria-activedescendant");
  }

  close() {
    this.show("", []);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const items = [...this.list.children];
    if (this.list.hidden || items.length === 0) {
      return;
    }
    switch (event.key) {
      case "ArrowDown":
      case "ArrowUp":
        this.chosen = event.key === "ArrowDown"
          ? (this.chosen + 1) % items.length
          : (this.chosen <= 0 ? items.length : this.chosen) - 1;
        items.forEach((item, i) => item.setAttribute("aria-selected", String(i === this.chosen)));
        this.input.setAttribute("aria-activedescendant", `suggestion-${this.chosen}`);
        break;
      case "Tab":
      case "Enter": {
        const item = items[this.chosen];
        if (!(item instanceof HTMLElement)) {
          return;
        }
        this.take(this.word(), item.dataset.insert ?? "");
        break;
      }
      case "Escape":
        this.close();
        break;
      default:
        return;
    }
    event.preventDefault();
  }

  /**
   * Puts a suggestion in the place of the word that was typed.
   * @param {string} word
   * @param {string} insert
   */
  take(word, insert) {
    const end = this.input.selectionStart ?? 0;
    const start = end - word.length + (word.startsWith("-") ? 1 : 0);
    this.input.setRangeText(insert, start, end, "end");
    this.close();
    if (insert.endsWith(":")) {
      this.suggest();
    }
  }
}
