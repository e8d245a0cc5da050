// A button that copies a command.
import { fresh, make } from "./dom.js";

/** Adds the buttons. */
export function copyButtons() {
  for (const figure of document.querySelectorAll("figure.copy:has(pre)")) {
    if (!fresh(figure)) {
      continue;
    }
    const button = make("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(figure.querySelector("pre")?.textContent ?? "");
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select it by hand";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    figure.querySelector("figcaption")?.append(button);
  }
}
