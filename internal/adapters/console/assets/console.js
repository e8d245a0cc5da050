// What pages can do besides, where scripts run. A page comes in parts: each is dealt with as soon as it is there.
import { brush } from "./brush.js";
import { completion } from "./completion.js";
import { copyButtons } from "./copy.js";
import { keys, keySetting } from "./keys.js";
import { firstUpload, jobProgress, liveTail } from "./live.js";
import { localTimes } from "./times.js";

/** Deals with what is there and was not yet. */
function come() {
  localTimes(document);
  copyButtons();
  completion();
  brush();
  liveTail();
  firstUpload();
  jobProgress();
  keySetting();
}

keys();
come();
if (document.readyState === "loading") {
  let due = false;
  const parts = new MutationObserver(() => {
    if (!due) {
      due = true;
      requestAnimationFrame(() => { due = false; come(); });
    }
  });
  parts.observe(document, { childList: true, subtree: true });
  addEventListener("DOMContentLoaded", () => { parts.disconnect(); come(); });
}
