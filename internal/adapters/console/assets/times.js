// Times are the reader's own; the pointer shows them in UTC.

const format = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

/**
 * Shows the times below an element as local ones.
 * @param {ParentNode} root
 */
export function localTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime()) && !time.title) {
      time.title = `${time.dateTime} (UTC)`;
      time.textContent = format.format(at);
    }
  }
}
