// Asks for what is new, and shows it; what a run is called is text, never HTML.
const POLL_MS = 2000, SHARE = 0.1;  // of the time, at most, that answers take: runs need the processor

const byId = id => document.getElementById(id);
let version = "", query = {}, waiting;

function options(select, names, chosen) {
  if (JSON.stringify(names) !== select.dataset.names) {
    select.dataset.names = JSON.stringify(names);
    select.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
  }
  select.value = chosen;
}

function withText(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

function show(content) {
  byId("state").textContent = content.state + (content.is_behind ? " (still reading)" : "");
  const several = content.shown.includes(",") ? [[content.shown, content.shown]] : [];
  options(byId("metric"), [["", "the usual ones"], ...several, ...content.metrics.map(name => [name, name])],
    query.metric === "" ? "" : content.shown);
  options(byId("x"), Object.entries(content.axes), content.x);
  drawPanels(byId("panels"), content.panels);
  byId("rows").replaceChildren(...content.rows.map(cells => {
    const row = document.createElement("tr");
    row.append(...cells.map(text => withText("td", text)));
    return row;
  }));
  byId("notes").replaceChildren(...content.notes.map(text => withText("li", text)));
}

async function poll() {
  clearTimeout(waiting);
  const asked = JSON.stringify(query), begun = performance.now();
  let isBehind = false;
  try {
    const answer = await fetch(`data?${new URLSearchParams({...query, since: version})}`);
    if (!answer.ok) throw new Error(await answer.text());
    const content = await answer.json();
    if (asked !== JSON.stringify(query)) return;  // something else was asked for meanwhile
    if (content.panels) show(content);
    if (content.panels) document.body.dataset.version = content.version;
    ({version, is_behind: isBehind} = content);
  } catch (error) {
    version = "";
    byId("state").textContent = `no answer, trying again (${error.message})`;
  }
  waiting = setTimeout(poll, isBehind ? 0 : Math.max(POLL_MS, (performance.now() - begun) / SHARE));
}

for (const key of ["metric", "x"]) {
  byId(key).addEventListener("change", event => {
    query = {...query, [key]: event.target.value};
    version = "";
    poll();
  });
}
poll();
