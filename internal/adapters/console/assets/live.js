// What changes while somebody looks: new decisions, the first upload, a job.
import { ask, make, prefix } from "./dom.js";
import { makeRow } from "./rows.js";

// How many new decisions are kept on the page.
const maxLive = 200;

/** Shows decisions as they are acknowledged, once somebody asks for it. The address says whether. */
export function liveTail() {
  const button = document.getElementById("live");
  const table = document.querySelector("table.decisions");
  const body = table?.querySelector("tbody");
  if (!button?.dataset.tail || !(table instanceof HTMLElement) || !body) {
    return;
  }
  const url = button.dataset.tail;
  /** @type {EventSource | null} */
  let source = null;
  const note = make("span", { class: "note", role: "status" });
  button.after(note);
  button.hidden = false;
  const set = (/** @type {boolean} */ on) => {
    button.setAttribute("aria-pressed", String(on));
    const here = new URL(location.href);
    on ? here.searchParams.set("live", "1") : here.searchParams.delete("live");
    history.replaceState(null, "", here);
    source?.close();
    source = null;
    note.textContent = on ? "waiting" : "";
    if (!on) {
      return;
    }
    source = new EventSource(url);
    source.addEventListener("open", () => { note.textContent = "shown as they come"; });
    source.addEventListener("error", () => { note.textContent = "the connection is lost; trying again"; });
    source.addEventListener("lagged", () => { note.textContent = "too many came to show all of them"; });
    source.addEventListener("message", (event) => {
      table.hidden = false;
      body.prepend(makeRow(JSON.parse(event.data)));
      const rows = body.querySelectorAll("tr.new");
      if (rows.length > maxLive) {
        rows[rows.length - 1]?.remove();
      }
    });
  };
  button.addEventListener("click", () => set(source === null));
  if (new URLSearchParams(location.search).get("live") === "1") {
    set(true);
  }
}

/** Turns the light green on the first upload. */
export function firstUpload() {
  const light = document.getElementById("light");
  if (!light) {
    return;
  }
  const look = async () => {
    try {
      const { items } = await ask(`${prefix}/api/v1/opas`);
      if (items.length > 0) {
        light.classList.add("on");
        light.replaceChildren("The first upload has come. ", make("a", { href: `${prefix}/decisions` }, "Look at it"));
        return;
      }
    } catch (error) {
      light.textContent = String(error);
    }
    setTimeout(look, 1000);
  };
  look();
}

/** Follows a job until it rests. */
export function jobProgress() {
  const place = document.getElementById("progress");
  const url = place?.dataset.job;
  if (!place || !url || !["pending", "running"].includes(place.dataset.state ?? "")) {
    return;
  }
  const look = async () => {
    try {
      const job = await ask(url);
      if (job.state !== place.dataset.state && !["pending", "running"].includes(job.state)) {
        location.reload();
        return;
      }
      const message = place.querySelector(".message");
      if (message) {
        message.textContent = job.message;
      }
      const bar = place.querySelector("progress");
      if (bar) {
        bar.max = Math.max(job.matched, 1);
        bar.value = job.done + job.failed + job.skipped;
      }
    } catch {
      // it is asked again
    }
    setTimeout(look, 1000);
  };
  setTimeout(look, 1000);
}
