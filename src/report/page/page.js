// What all parts of the page use: its data, elements, and which runs are shown. What comes from files reaches the page as
// text and pixels only: textContent, never markup.

const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const COLOURS = 8;

// ---- Small tools --------------------------------------------------------------------------------------------------

// An element with attributes and children (elements or text).
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'class') made.className = value;
    else if (key === 'on') Object.entries(value).forEach(([event, f]) => made.addEventListener(event, f));
    else if (key in made && typeof value !== 'string') made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
function drawn(name, attributes = {}, text = null) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}
const coloured = (made, index) => {
  made.style.setProperty('--colour', `var(--c${index % COLOURS})`);
  return made;
};
const swatch = (index) => coloured(element('span', { class: 'swatch' }), index);

function duration(seconds) {
  if (seconds < 90) return `${draw.number(Number(seconds.toPrecision(3)))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

// ---- Runs ---------------------------------------------------------------------------------------------------------

const several = data.runs.length > 1;
const state = { axis: AXES[0], smoothing: 0, shown: data.runs.map(() => true), cursor: null };

data.runs.forEach((run, index) => {
  run.index = index;
  run.columns = new Map(run.curves.columns.map((column) => [column.name, column]));
  // Iterations as the axis at hand counts them.
  run.on = (axis, step) => (axis.name === 'step' ? step : draw.between(run.curves.step, run.curves[axis.name], step));
});
const visible = () => data.runs.filter((run) => state.shown[run.index]);
const last = (run, name) => {
  const column = run.columns.get(name);
  return column ? column.mean.at(-1) : undefined;
};
const runLabel = (run) =>
  element('span', { class: 'run', title: run.name }, swatch(run.index), element('span', {}, run.name));
