// Keys of a list: / to the search, j and k through the rows, Enter opens one in place, o its page, ? tells them.
import { toggleRow } from "./rows.js";

/** @type {HTMLTableRowElement | null} */
let current = null;

/** @returns {HTMLTableRowElement[]} */
function rows() {
  return [...document.querySelectorAll("tr[data-decision]")].filter((r) => r instanceof HTMLTableRowElement);
}

/** @param {number} step */
function move(step) {
  const all = rows();
  if (all.length === 0) {
    return;
  }
  const at = current ? all.indexOf(current) : -1;
  current?.classList.remove("current");
  current = all[Math.max(0, Math.min(all.length - 1, at + step))] ?? null;
  current?.classList.add("current");
  current?.scrollIntoView({ block: "nearest" });
  current?.querySelector("a")?.focus({ preventScroll: true });
}

/** Whether somebody has said that keys are not to do anything by themselves, which speech input types by chance. */
const off = () => localStorage.getItem("docket-keys") === "off";

/** Lets people say so. */
export function keySetting() {
  const box = document.getElementById("keys-on");
  if (box instanceof HTMLInputElement) {
    box.checked = !off();
    box.onchange = () => localStorage.setItem("docket-keys", box.checked ? "on" : "off");
  }
}

/** Listens to the keys, and to clicks on rows. */
export function keys() {
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    const help = document.getElementById("keys");
    if (help instanceof HTMLDialogElement && help.open || off() && event.key !== "?") {
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey ||
        target instanceof HTMLInputElement && target.type !== "checkbox" || target instanceof HTMLTextAreaElement) {
      return;
    }
    const own = target instanceof Element ? target.closest("tr[data-decision]") : null;
    switch (event.key) {
      case "/":
        document.getElementById("q")?.focus();
        break;
      case "j":
        move(1);
        break;
      case "k":
        move(-1);
        break;
      case "o":
        current?.querySelector("a")?.click();
        break;
      case "Enter":
        if (!current || own !== current) {
          return;
        }
        toggleRow(current);
        break;
      case "?":
        if (help instanceof HTMLDialogElement) {
          help.showModal();
        }
        break;
      default:
        return;
    }
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    const target = event.target;
    if (!(target instanceof Element) || target.closest("a, button, input, label, summary") ||
        getSelection()?.toString()) {
      return;
    }
    const row = target.closest("tr[data-decision]");
    if (row instanceof HTMLTableRowElement) {
      toggleRow(row);
    }
  });
}
