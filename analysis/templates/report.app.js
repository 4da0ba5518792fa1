"use strict";

const PRINT_WIDTH = 640; // pixels that fit between the margins of A4 and of US Letter
const MARGIN = { l: 8, r: 16, t: 16, b: 8 };
const FONT_SIZE = 12.5; // pixels
const LEGEND = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left" };
const CONFIG = { displayModeBar: false, responsive: true, showTips: false };
const dark = matchMedia("(prefers-color-scheme: dark)");

// Theme

const toggle = document.getElementById("theme");

function currentTheme() {
  return document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
}

function nameToggle() {
  toggle.textContent = currentTheme() === "dark" ? "Light theme" : "Dark theme";
}

toggle.addEventListener("click", () => {
  const theme = currentTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("sweeper-theme", theme); } catch { /* not kept, but in effect */ }
  nameToggle();
});
dark.addEventListener("change", nameToggle);
toggle.hidden = false;
nameToggle();

// Copy buttons

const announcement = document.getElementById("announcement");

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // not allowed for a file in every browser
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copy(document.getElementById(button.dataset.copy).textContent);
    button.focus();
    button.textContent = done ? "Copied" : "Select and copy by hand";
    announcement.textContent = button.textContent;
    setTimeout(() => { button.textContent = label; announcement.textContent = ""; }, 2000);
  });
}

// Plots: drawn when they come near the window, since a page may have two hundred of them

const plots = [...document.querySelectorAll(".plot")];

function figureOf(plot) {
  return JSON.parse(plot.parentElement.querySelector("script").textContent);
}

function layoutOf(figure) {
  const layout = {
    autosize: true,
    margin: MARGIN,
    dragmode: false, // a finger on a plot scrolls the page
    hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: FONT_SIZE },
    ...figure.layout,
  };
  layout.showlegend ??= figure.data.filter((trace) => trace.showlegend !== false).length > 1;
  layout.legend = { ...LEGEND, ...figure.layout.legend };
  for (const axis of ["xaxis", "yaxis"]) layout[axis] = { zeroline: false, ...layout[axis] };
  for (const { title } of [layout.xaxis, layout.yaxis]) if (title) title.font = { size: FONT_SIZE };
  return layout;
}

// plotly.js is 5 MB, which takes a second to compile: the text can be read and clicked before that.
function loadPlotly() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
}

function draw(plot) {
  if (plot.dataset.drawn) return;
  plot.dataset.drawn = "true";
  loadPlotly();
  const figure = figureOf(plot);
  Plotly.newPlot(plot, figure.data, layoutOf(figure), CONFIG);
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    observer.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "300px" });
plots.forEach((plot) => observer.observe(plot));
if (plots.length) (window.requestIdleCallback ?? setTimeout)(loadPlotly);

// The data of a plot as a table, made when it is opened

const ENTITIES = { "&lt;": "<", "&gt;": ">", "&amp;": "&" };

function plain(value) {
  if (value === null || value === undefined) return "–";
  return String(value).replaceAll("<br>", " ").replace(/&(lt|gt|amp);/g, (entity) => ENTITIES[entity]);
}

function rowsOf(figure) {
  const title = (axis, fallback) => figure.layout[axis]?.title?.text ?? fallback;
  const rows = [];
  for (const trace of figure.data) {
    if (trace.z) {
      trace.z.forEach((line, y) => line.forEach((value, x) => {
        rows.push(["", trace.x[x], trace.y[y], trace.text?.[y]?.[x] ?? value]);
      }));
      continue;
    }
    if (trace.hoverinfo === "skip") continue;
    const bars = trace.error_x ?? trace.error_y;
    const middle = trace.error_x ? trace.x : trace.y;
    trace.x.forEach((x, index) => {
      if (x === null) return;
      const note = [trace.text?.[index] ?? trace.customdata?.[index]].filter((found) => found !== undefined);
      if (bars) {
        const low = (middle[index] - bars.arrayminus[index]).toPrecision(4);
        const high = (middle[index] + bars.array[index]).toPrecision(4);
        note.push(`${low} to ${high}`);
      }
      rows.push([trace.name, x, trace.y[index], note.join("; ")]);
    });
  }
  const isGrid = figure.data.some((trace) => trace.z);
  return { head: ["series", title("xaxis", "entry"), title("yaxis", "entry"), isGrid ? "value" : "detail"], rows };
}

function tableOf(figure) {
  const { head, rows } = rowsOf(figure);
  const kept = head.map((_, column) => rows.some((row) => row[column] !== "" && row[column] !== undefined));
  const table = document.createElement("table");
  const addRow = (parent, cells, tag) => {
    const row = parent.insertRow();
    cells.forEach((cell, column) => {
      if (!kept[column]) return;
      const element = document.createElement(tag);
      if (tag === "th") element.scope = "col";
      element.textContent = plain(cell);
      row.append(element);
    });
  };
  addRow(table.createTHead(), head, "th");
  const body = table.createTBody();
  rows.forEach((row) => addRow(body, row, "td"));
  return table;
}

for (const details of document.querySelectorAll("details.data")) {
  details.addEventListener("toggle", () => {
    const place = details.querySelector(".scroll");
    if (!details.open || place.childElementCount) return;
    place.append(tableOf(figureOf(details.parentElement.querySelector(".plot"))));
  });
}

// Paper: every plot, at one width

addEventListener("beforeprint", () => {
  for (const plot of plots) {
    draw(plot);
    Plotly.relayout(plot, { autosize: false, width: PRINT_WIDTH });
  }
});
addEventListener("afterprint", () => {
  for (const plot of plots) Plotly.relayout(plot, { autosize: true, width: null });
});

document.documentElement.dataset.ready = "true";
