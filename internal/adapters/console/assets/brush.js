// Choosing a span of time in a chart: by drawing over it, or by keys.
import { fresh, make } from "./dom.js";

const svg = "http://www.w3.org/2000/svg";

/** Lets people choose a span in every chart. */
export function brush() {
  for (const figure of document.querySelectorAll("figure.chart")) {
    const drawing = figure.querySelector("svg");
    if (figure instanceof HTMLElement && drawing && figure.querySelector(".axis") && fresh(figure)) {
      new Brush(figure, drawing);
    }
  }
}

class Brush {
  /**
   * @param {HTMLElement} figure
   * @param {SVGSVGElement} drawing
   */
  constructor(figure, drawing) {
    this.drawing = drawing;
    this.search = figure.dataset.search ?? "";
    this.since = Date.parse(figure.dataset.since ?? "");
    this.until = Date.parse(figure.dataset.until ?? "");
    this.step = Number(figure.dataset.every) * 1000;
    this.rect = document.createElementNS(svg, "rect");
    this.rect.classList.add("brush");
    this.rect.setAttribute("height", "100%");
    this.told = make("p", { class: "away", "aria-live": "polite" });
    // The drawing tells what it shows; what takes the keys stands around it.
    this.group = make("div", {
      tabindex: "0", role: "group",
      "aria-label": "Choose a time: left and right move, Shift makes it longer, Enter shows it, Escape ends",
    });
    drawing.before(this.group);
    this.group.append(drawing);
    figure.append(this.told);
    this.from = this.to = this.until;
    this.group.addEventListener("keydown", (event) => this.key(event));
    this.group.addEventListener("dragstart", (event) => event.preventDefault());
    drawing.addEventListener("pointerdown", (event) => this.draw(event));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    switch (event.key) {
      case "ArrowLeft":
      case "ArrowRight": {
        const by = event.key === "ArrowLeft" ? -this.step : this.step;
        if (this.from === this.to) {
          this.from = this.to - this.step;
        }
        if (event.shiftKey) {
          this.to = this.within(this.to + by);
        } else if (this.from + by >= this.since && this.to + by <= this.until) {
          this.from += by;
          this.to += by;
        }
        this.show();
        break;
      }
      case "Enter":
        this.go();
        break;
      case "Escape":
        this.end();
        break;
      default:
        return;
    }
    event.preventDefault();
  }

  /**
   * Draws with a mouse or a pen. A finger scrolls.
   * @param {PointerEvent} event
   */
  draw(event) {
    if (event.pointerType === "touch" || event.button !== 0) {
      return;
    }
    const began = this.at(event);
    let drawn = false;
    const move = (/** @type {PointerEvent} */ e) => {
      const now = this.at(e);
      if (!drawn && Math.abs(e.clientX - event.clientX) < 5) {
        return; // a click, which follows the bar
      }
      drawn = true;
      this.from = Math.min(began, now);
      this.to = Math.max(began, now);
      this.show();
    };
    const end = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      removeEventListener("pointercancel", end);
    };
    const up = () => {
      end();
      if (drawn) {
        const none = (/** @type {Event} */ e) => { e.preventDefault(); e.stopPropagation(); };
        addEventListener("click", none, { capture: true, once: true }); // the bar under the pointer is not meant
        setTimeout(() => removeEventListener("click", none, { capture: true }));
        this.go();
      }
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
    addEventListener("pointercancel", end);
  }

  /**
   * The time under the pointer, at the nearest edge of a bar.
   * @param {PointerEvent} event
   */
  at(event) {
    const box = this.drawing.getBoundingClientRect();
    const time = this.since + (this.until - this.since) * (event.clientX - box.left) / box.width;
    return this.within(this.since + Math.round((time - this.since) / this.step) * this.step);
  }

  /** @param {number} time */
  within(time) {
    return Math.max(this.since, Math.min(this.until, time));
  }

  show() {
    const width = this.drawing.viewBox.baseVal.width / (this.until - this.since);
    const [from, to] = this.ordered();
    this.rect.setAttribute("x", String((from - this.since) * width));
    this.rect.setAttribute("width", String((to - from) * width));
    this.drawing.append(this.rect);
    this.told.textContent = `${new Date(from).toLocaleString()} to ${new Date(to).toLocaleString()}`;
  }

  end() {
    this.rect.remove();
    this.from = this.to = this.until;
    this.told.textContent = "";
  }

  /** @returns {[number, number]} */
  ordered() {
    return [Math.min(this.from, this.to), Math.max(this.from, this.to)];
  }

  go() {
    const [from, to] = this.ordered();
    if (to > from) {
      const next = new URL(this.search, location.href);
      next.searchParams.set("since", new Date(from).toISOString());
      next.searchParams.set("until", new Date(to).toISOString());
      location.assign(next);
    }
  }
}
