// A click on a column's name sorts its table by numbers where all are; words in a table's field keep the rows with them.
const value = (row, at) => row.cells[at].textContent.trim();
const number = text => Number.parseFloat(text.replaceAll(",", ""));
for (const table of document.querySelectorAll("table.rows")) {
  const body = table.tBodies[0];
  table.tHead.addEventListener("click", event => {
    const head = event.target.closest("th");
    if (!head || !event.target.closest("button")) return;
    const at = head.cellIndex, sign = head.ariaSort === "ascending" ? -1 : 1, rows = [...body.rows];
    const numeric = rows.every(row => !value(row, at) || !Number.isNaN(number(value(row, at))));
    const order = numeric ? (a, b) => (number(a) || 0) - (number(b) || 0) : (a, b) => a.localeCompare(b);
    rows.sort((a, b) => sign * order(value(a, at), value(b, at)));
    for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
    head.ariaSort = sign > 0 ? "ascending" : "descending";
    body.append(...rows);
  });
  table.previousElementSibling?.querySelector("input")?.addEventListener("input", event => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
}
