// What pages can do besides, where scripts run. Each part looks for what it works on, and does nothing without.
import { localTimes } from "./times.js";
import { brush } from "./brush.js";
import { completion } from "./completion.js";
import { copyButtons } from "./copy.js";
import { keys } from "./keys.js";
import { firstUpload, jobProgress, liveTail } from "./live.js";

localTimes(document);
copyButtons();
completion();
keys();
brush();
liveTail();
firstUpload();
jobProgress();
