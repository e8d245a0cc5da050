// What changes while somebody looks: new decisions, the first upload, a job.
import { ask, fresh, make, prefix } from "./dom.js";
import { makeRow } from "./rows.js";

// How many new decisions are kept on the page.
const maxLive = 200;

/** Shows decisions as they are acknowledged, once somebody asks for it. The address says whether. */
export function liveTail() {
  const button = document.getElementById("live");
  const table = document.querySelector("table.decisions");
  const body = table?.querySelector("tbody");
  if (!button?.dataset.tail || !(table instanceof HTMLElement) || !body || !fresh(button)) {
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
    let lost = false;
    source.addEventListener("open", () => {
      note.textContent = lost ? "shown as they come; those that came meanwhile are not" : "shown as they come";
    });
    source.addEventListener("error", () => {
      if (source?.readyState === EventSource.CLOSED) { // it was refused, and is not tried again
        set(false);
        note.textContent = "docket shows no new ones at the moment: load the page again";
        return;
      }
      lost = true;
      note.textContent = "the connection is lost; trying again";
    });
    source.addEventListener("lagged", () => { note.textContent = "too many came to show all of them"; });
    source.addEventListener("message", (event) => {
      table.hidden = false;
      document.querySelector(".results .empty")?.remove();
      body.prepend(makeRow(JSON.parse(event.data)));
      const rows = body.querySelectorAll("tr.new");
      if (rows.length > maxLive) {
        const last = rows[rows.length - 1];
        if (last?.nextElementSibling?.classList.contains("place")) {
          last.nextElementSibling.remove();
        }
        last?.remove();
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
  if (!light || !fresh(light)) {
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
      light.textContent = "Waiting for the first upload…";
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
  if (!place || !url || !["pending", "running"].includes(place.dataset.state ?? "") || !fresh(place)) {
    return;
  }
  const look = async () => {
    try {
      const job = await ask(url);
      if (job.state !== place.dataset.state && !["pending", "running"].includes(job.state)) {
        location.reload();
        return;
      }
      const badge = place.querySelector(".badge");
      if (badge) {
        badge.textContent = job.state;
        badge.className = `badge ${job.state}`;
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
