// Draws panels (experiments.comparing.page.Panel) into an element, and draws them again when there is more in them. A
// panel is made when it comes into sight. Pointing shows the numbers, dragging enlarges, a double click shows all again,
// a click on a name hides its line.
const PER_LINE = 3;  // series: the line, and the ends of its band

function shownNumber(value) {
  return value == null ? "--" : Number(value.toPrecision(4)).toLocaleString("en");
}

function drawPanels(root, panels) {
  root.classList.add("panels");
  const key = panel => JSON.stringify([panel.title, panel.x, panel.y, panel.lines.map(line => [line.name, line.colour])]);
  const old = new Map([...root.children].map(element => [element.dataset.key, element]));
  root.replaceChildren(...panels.map(panel => {
    const element = old.get(key(panel)) ?? makePanel(key(panel));
    element.panel = panel;
    if (element.plot) refresh(element.plot, alignedPoints(panel));
    return element;
  }));
}

function makePanel(key) {
  const element = document.createElement("div");
  element.className = "panel";
  element.dataset.key = key;
  new IntersectionObserver((entries, observer) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    element.plot = makePlot(element, element.panel);
  }, {rootMargin: "600px"}).observe(element);
  return element;
}

// Steps, and for each line its values and band, all at the same steps; counts are looked up when they are shown.
function alignedPoints(panel) {
  if (!panel.lines.length) return [[]];
  return uPlot.join(panel.lines.map(line => line.points.slice(0, 1 + PER_LINE)));
}

function refresh(plot, data) {
  const steps = plot.data[0], {min, max} = plot.scales.x;
  const showsAll = !steps.length || (min <= steps[0] && max >= steps.at(-1));
  plot.setData(data, showsAll);
  if (!showsAll) plot.redraw();
}

function makePlot(element, panel) {
  const series = [{label: panel.x, value: (plot, value) => shownNumber(value)}], bands = [];
  panel.lines.forEach((line, number) => {
    const at = 1 + PER_LINE * number, edge = {stroke: "transparent", points: {show: false}, class: "edge", spanGaps: true};
    const value = (plot, middle, _, index) => {
      if (middle == null) return "--";
      const own = element.panel.lines[number].points, count = own[4][own[0].indexOf(plot.data[0][index])];
      const [low, high] = [plot.data[at + 1][index], plot.data[at + 2][index]];
      const band = low == null ? "" : ` [${shownNumber(low)}, ${shownNumber(high)}]`;
      return `${shownNumber(middle)}${band}, ${count} seed${count === 1 ? "" : "s"}`;
    };
    series.push({label: line.name, stroke: line.colour, width: 2, dash: line.dashes, spanGaps: true, value}, edge, edge);
    bands.push({series: [at + 2, at + 1], fill: `${line.colour}2e`});
  });
  const axis = {stroke: "#1b1b1b", grid: {stroke: "#e4e4e4", width: 1}};
  const compact = Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 2});
  const ticks = (plot, values) => values.map(value => compact.format(value));
  const width = Math.max(240, element.clientWidth);
  return new uPlot({
    title: panel.title, width, height: 280, series, bands,
    scales: {x: {time: false}},
    axes: [{...axis, label: panel.x, values: ticks}, {...axis, label: panel.y, values: ticks, size: 60}],
    legend: {markers: {fill: (plot, at) => plot.series[at].stroke?.()}},
    hooks: {
      setSeries: [(plot, at) => {
        if (at == null || at % PER_LINE !== 1) return;
        for (const edge of [at + 1, at + 2]) plot.setSeries(edge, {show: plot.series[at].show});
      }],
    },
  }, alignedPoints(panel), element);
}

// In a page that holds its data: each picture makes way for the curves, and can still be had.
for (const data of document.querySelectorAll("script.curves")) {
  const root = document.createElement("div");
  data.after(root);
  drawPanels(root, JSON.parse(data.textContent));
  data.closest("figure").querySelector("details.picture").open = false;
}
