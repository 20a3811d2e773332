// The page. What comes from files reaches it as text and pixels only: textContent, never markup.

const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const COLOURS = 8;
const HEIGHT = 210;
const PAD = { left: 54, right: 20, top: 12, bottom: 31 };
const DASHES = ['', '6 4', '1.5 4'];

const AXES = [
  { name: 'step', title: 'Iterations', one: 'iteration', unit: 'iterations' },
  { name: 'epoch', title: 'Epochs', one: 'epoch', unit: 'epochs' },
  { name: 'images', title: 'Images', one: 'image', unit: 'images seen' },
  { name: 'seconds', title: 'Time', one: 'after', unit: 'time' },
];

const series = (column, label) => ({ column, label });
const FAIR = Math.LN2;
// The charts of reports: those are drawn for which a run has a column.
const REPORT_CHARTS = [
  { group: 'Losses', title: 'Loss of the discriminator', series: [series('loss_d_real', 'real'), series('loss_d_fake', 'generated')],
    about: 'Near 0: it tells real from generated with ease, and the generator learns little.',
    references: [{ y: FAIR, label: 'a coin: ln 2' }] },
  { group: 'Losses', title: 'Loss of the generator', series: [series('loss_g', 'generator')],
    about: 'High: the discriminator knows its images. It need not fall while images become better.',
    references: [{ y: FAIR, label: 'a coin: ln 2' }] },
  { group: 'The discriminator’s level', title: 'Accuracy of the discriminator', fixed: [0, 1],
    series: [series('d_real_accuracy', 'real'), series('d_fake_accuracy', 'generated')],
    about: 'Share of images that it sorts rightly.', references: [{ y: 0.5, label: 'a coin' }] },
  { group: 'The discriminator’s level', title: 'Its answers', fixed: [0, 1],
    series: [series('d_real', 'D(x)'), series('d_fake', 'D(G(z))'), series('d_fake_after', 'D(G(z)) after')],
    about: 'Mean probability that an image is real: for real ones, for generated ones, and for these after its step.',
    references: [{ y: 0.5, label: 'undecided' }] },
  { group: 'The discriminator’s level', title: 'Sign of its answers on real images', fixed: [-1, 1],
    series: [series('d_real_sign', 'mean sign')],
    about: 'Near 1: it knows every real image. ADA holds it at 0.6.', references: [{ y: 0.6, label: 'ADA’s aim' }] },
  { group: 'The discriminator’s level', title: 'Held-out against seen: accuracy', fixed: [0, 1],
    series: [series('seen_accuracy', 'seen'), series('held_out_accuracy', 'held out')],
    about: 'On real images that it trained on, and that it never saw. A gap: it learns by heart.',
    references: [{ y: 0.5, label: 'a coin' }] },
  { group: 'The discriminator’s level', title: 'Held-out against seen: D(x)', fixed: [0, 1],
    series: [series('seen_d', 'seen'), series('held_out_d', 'held out')],
    about: 'Mean probability of being real, of the same images.', references: [{ y: 0.5, label: 'undecided' }] },
  { group: 'The discriminator’s level', title: 'Norm of the gradients', log: true,
    series: [series('d_gradient_norm', 'discriminator'), series('g_gradient_norm', 'generator')],
    about: 'Mean L2 norm. A generator’s near 0 has nothing to learn from.' },
  { group: 'Quality', title: 'Diversity', series: [series('diversity', 'generated / real')],
    about: 'Distance between generated images, by that between real ones. Falling towards 0: collapse.',
    references: [{ y: 1, label: 'as the data' }] },
  { group: 'Pace', title: 'Learning rates', log: true, series: [series('lr_d', 'discriminator'), series('lr_g', 'generator')],
    about: 'As used, with decay and balance.' },
  { group: 'Pace', title: 'Steps left out', series: [series('d_left_out', 'discriminator'), series('g_left_out', 'generator')],
    about: 'So far, by balance or by training the discriminator ahead.', unlessZero: true },
  { group: 'Pace', title: 'Steps without a finite gradient', series: [series('d_skipped', 'discriminator'), series('g_skipped', 'generator')],
    about: 'Left out so far.', unlessZero: true },
  { group: 'Pace', title: 'Speed', series: [series('images_per_sec', 'images a second')], about: 'Training images a second.',
    zero: true },
];
const METRICS = {
  swd: ['Sliced Wasserstein distance', 'Lower is better, down to that of real images.'],
  fid: ['FID', 'Fréchet distance on Inception’s features. Lower is better.'],
  kid: ['KID', 'Kernel distance on features. Lower is better.'],
  frechet: ['Fréchet distance', 'On the features of a classifier: not FID. Lower is better.'],
  kernel: ['Kernel distance', 'On the features of a classifier: not KID. Lower is better.'],
  precision: ['Precision', 'Share of generated images that are among the real ones.'],
  recall: ['Recall', 'Share of real images that are among the generated ones.'],
  density: ['Density', 'How many neighbourhoods of real images a generated one is in.'],
  coverage: ['Coverage', 'Share of real images with a generated one in their neighbourhood.'],
  neighbours: ['Nearest training image', 'Median distance from generated images. Far below that of real ones: it copies.'],
  'ms-ssim': ['MS-SSIM', 'Likeness of pairs of images: higher than that of real ones, they are less diverse.'],
};
// Names of metrics, those that are known first.
const inOrder = (names) => [...Object.keys(METRICS).filter((name) => names.includes(name)),
  ...names.filter((name) => !Object.hasOwn(METRICS, name))];
const metricTitle = (name) => (Object.hasOwn(METRICS, name) ? METRICS[name] : [name, '']);
const alarmTitle = (name) => (Object.hasOwn(ALARMS, name) ? ALARMS[name] : name);
const GROUPS = ['Losses', 'The discriminator’s level', 'Quality', 'Pace'];
const ALARMS = {
  collapse: 'Collapse',
  'discriminator-saturated': 'Discriminator saturated',
  'generator-starved': 'Generator starved',
  'learning-by-heart': 'Learning by heart',
  'not-finite': 'Values not finite',
};

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
const runLabel = (run) => element('span', { class: 'run', title: run.name }, swatch(run.index), element('span', {}, run.name));

function stateOf(run) {
  const done = draw.whole(run.last_step);
  if (run.stopped) {
    const why = run.stopped.why ? `: ${run.stopped.why}` : '';
    return `${done}${run.steps ? ` of ${draw.whole(run.steps)}` : ''} iterations, ended by --stop ${run.stopped.stopped}${why}`;
  }
  if (!run.steps) return `${done} iterations`;
  if (run.last_step < run.steps) return `${done} of ${draw.whole(run.steps)} iterations: still training, or interrupted`;
  return `All ${done} iterations`;
}

function showRuns() {
  const how = 'Point at a chart to read it off; click it to see the samples of that time.';
  $('facts').textContent = several ? `${data.runs.length} runs, drawn over each other. ${how}` : how;
  if (several) document.title = `${data.runs.map((run) => run.name).join(', ')} – how training went`;
  else document.title = `${data.runs[0].name} – how training went`;
  for (const run of data.runs) {
    const facts = element('dl');
    const fact = (title, value, unit = '') => {
      if (value === null || value === undefined || value === '') return;
      facts.append(element('div', {}, element('dt', {}, title),
        element('dd', {}, value, ...(unit ? [' ', element('small', {}, unit)] : []))));
    };
    const { seconds, epoch } = run.curves;
    if (seconds.length) {
      fact('Training', duration(seconds.at(-1)));
      fact('Epochs', draw.number(Number(epoch.at(-1).toPrecision(3))));
    }
    const speed = run.columns.get('images_per_sec');
    if (speed) {
      const sorted = speed.mean.filter((value) => value !== null).sort((a, b) => a - b);
      fact('Speed', draw.whole(sorted[sorted.length >> 1]), 'images/s');
    }
    const percent = (name) => (typeof last(run, name) === 'number' ? `${Math.round(100 * last(run, name))} %` : null);
    fact('D right on real', percent('d_real_accuracy'));
    fact('D right on generated', percent('d_fake_accuracy'));
    const newest = new Map();
    for (const line of run.metrics) for (const [name, both] of Object.entries(line.values)) newest.set(name, both);
    for (const [name, both] of inOrder([...newest.keys()]).slice(0, 4).map((one) => [one, newest.get(one)])) {
      fact(metricTitle(name)[0], draw.number(both.generated),
        typeof both.real === 'number' ? `real ${draw.number(both.real)}` : '');
    }
    if (run.alarms.length) fact('Alarms', String(run.alarms.length));
    const item = element('li', {}, element('h3', {}, run.name),
      element('p', { class: `state${run.steps && !run.stopped && run.last_step < run.steps ? ' warned' : ''}` }, stateOf(run)), facts);
    $('runs').append(several ? coloured(item, run.index) : item);
  }
}

function showAlarms() {
  const alarms = data.runs.flatMap((run) => run.alarms.map((alarm) => ({ ...alarm, run })));
  alarms.sort((a, b) => a.step - b.step);
  $('alarms-section').hidden = !alarms.length;
  for (const { alarm, step, seen, helps, run } of alarms) {
    const name = alarmTitle(alarm);
    $('alarms').append(element('li', {},
      element('div', { class: 'head' }, element('h3', {}, name),
        element('span', { class: 'of' }, `iteration ${draw.whole(step)}`),
        several ? element('span', { class: 'of' }, swatch(run.index), run.name) : null,
        element('button', { type: 'button', 'aria-label': `Show ${name} at iteration ${step} in the charts`, on: { click: () => {
          moveTo(run.on(state.axis, step));
          showSheetsAt(step);
          $('tools').scrollIntoView();
        } } }, 'In the charts')),
      element('p', {}, element('b', {}, 'Seen: '), seen || 'the log does not say'),
      helps ? element('p', {}, element('b', {}, 'What helps: '), helps) : null));
  }
}

// ---- Sample sheets ------------------------------------------------------------------------------------------------

const times = [...new Set(data.runs.flatMap((run) => run.sheets.map((sheet) => sheet.step)))].sort((a, b) => a - b);
// The newest sheet of a run at an iteration.
const sheetAt = (run, step) => run.sheets.filter((sheet) => sheet.step <= step).at(-1);
let playing = null;

function makeSheets() {
  const runs = data.runs.filter((run) => run.sheets.length);
  $('samples-section').hidden = !runs.length;
  if (!runs.length) return;
  if (runs.length <= 2) $('look').className = runs.length === 2 ? 'beside two' : 'beside';
  for (const run of runs) {
    const width = Math.max(...run.sheets.map((sheet) => sheet.width));
    const picture = element('img', { alt: '' });
    const text = element('span', { class: several ? '' : 'hidden' });
    // Small ones are shown up to twice as large as they are.
    run.figure = element('figure', {}, picture, element('figcaption', {},
      several ? swatch(run.index) : null, several ? element('b', {}, run.name) : null, text));
    run.figure.style.maxWidth = `${Math.min(640, 2 * width)}px`;
    run.showSheet = (step) => {
      const sheet = sheetAt(run, step);
      picture.hidden = !sheet;
      text.textContent = sheet ? `iteration ${draw.whole(sheet.step)}` : 'no sheet yet';
      if (sheet && picture.getAttribute('src') !== sheet.src) {
        picture.width = sheet.width;
        picture.height = sheet.height;
        picture.src = sheet.src;
        picture.alt = `Samples of ${run.name} after iteration ${sheet.step}`;
      }
    };
    $('sheets').append(run.figure);
    const three = [0, run.sheets.length >> 1, run.sheets.length - 1].filter((at, i, all) => all.indexOf(at) === i);
    $('print-sheets').append(element('div', {}, element('h3', {}, run.name), element('div', { class: 'three' },
      ...three.map((at) => element('figure', {}, element('img', { src: run.sheets[at].src, alt: '' }),
        element('figcaption', {}, `iteration ${draw.whole(run.sheets[at].step)}`))))));
  }
  const slider = $('time');
  slider.max = times.length - 1;
  slider.value = slider.max;
  slider.disabled = times.length < 2;
  $('play').hidden = times.length < 2;
  slider.addEventListener('input', () => {
    pause();
    showSheets();
    followSheets();
  });
  $('play').addEventListener('click', () => (playing ? pause() : play()));
  showSheets();
}
function showSheets() {
  const step = times[Number($('time').value)];
  data.runs.forEach((run) => {
    if (run.showSheet) run.showSheet(step);
    if (run.figure) run.figure.hidden = !state.shown[run.index];
  });
  const text = `iteration ${draw.whole(step)}`;
  $('time-text').textContent = text;
  $('time').setAttribute('aria-valuetext', text);
}
// The charts are read off where the sheets are of.
function followSheets() {
  const step = times[Number($('time').value)];
  const run = visible().find((one) => one.sheets.length);
  if (run) moveTo(run.on(state.axis, step));
}
function showSheetsAt(step) {
  if (!times.length) return;
  pause();
  $('time').value = draw.nearest(times, step);
  showSheets();
}
function play() {
  const slider = $('time');
  if (Number(slider.value) >= times.length - 1) slider.value = 0;
  const pace = Math.min(700, Math.max(120, 9000 / times.length));
  playing = setInterval(() => {
    if (Number(slider.value) >= times.length - 1) {
      pause();
      return;
    }
    slider.value = Number(slider.value) + 1;
    showSheets();
    followSheets();
  }, pace);
  showSheets();
  followSheets();
  $('play').textContent = 'Pause';
  $('play').setAttribute('aria-pressed', 'true');
}
function pause() {
  clearInterval(playing);
  playing = null;
  $('play').textContent = 'Play';
  $('play').setAttribute('aria-pressed', 'false');
}

// ---- Charts -------------------------------------------------------------------------------------------------------

const charts = [];

// What is drawn of a run for each series: { x, y, low, high } in the axis at hand.
function reportLines(definition) {
  return (run) => definition.series.map(({ column }) => {
    const found = run.columns.get(column);
    if (!found) return null;
    const [low, high] = found.range || [null, null];
    return { x: run.curves[state.axis.name], y: found.mean, low, high };
  });
}
function metricLines(name) {
  return (run) => {
    const lines = run.metrics.filter((line) => Object.hasOwn(line.values, name));
    if (!lines.length) return [null, null];
    const x = lines.map((line) => run.on(state.axis, line.step));
    const of = (which) => {
      const y = lines.map((line) => line.values[name][which] ?? null);
      return y.some((value) => value !== null) ? { x, y, low: null, high: null, dots: which === 'generated' } : null;
    };
    return [of('generated'), of('real')];
  };
}
function definitions() {
  const all = REPORT_CHARTS.filter((definition) => data.runs.some((run) => definition.series.some(({ column }) => {
    const found = run.columns.get(column);
    return found && !(definition.unlessZero && found.mean.every((value) => !value));
  }))).map((definition) => ({ ...definition, lines: reportLines(definition) }));
  const names = [...new Set(data.runs.flatMap((run) => run.metrics.flatMap((line) => Object.keys(line.values))))];
  for (const name of inOrder(names)) {
    const [title, about] = metricTitle(name);
    const features = [...new Set(data.runs.flatMap((run) => run.metrics.filter((line) => Object.hasOwn(line.values, name))
      .map((line) => line.features)))].filter(Boolean);
    const wants = !['swd', 'ms-ssim', 'neighbours'].includes(name) && features.length > 0;
    all.push({ group: 'Quality', title, log: false, series: [series(name, 'generated'), series(name, 'real, the floor')],
      about: `${about}${wants ? ` Features: ${features.slice(0, 4).join('; ')}.` : ''}`,
      fixed: ['precision', 'recall', 'coverage'].includes(name) ? [0, 1] : null, zero: name === 'swd', lines: metricLines(name) });
  }
  return all;
}

// With one run colours tell series apart, with several runs: dashes tell series apart in any case.
const colourOf = (run, at) => (several ? run.index : at);

class Chart {
  constructor(definition, number) {
    this.definition = definition;
    this.log = false;
    const id = `chart-${number}`;
    this.svg = drawn('svg', { id, role: 'slider', tabindex: '0', 'aria-label': `${definition.title}: read off`, 'aria-valuemin': '0' });
    this.readout = element('table', { class: 'readout' });
    this.values = element('div', { class: 'values', tabindex: '0', role: 'region', 'aria-label': `Values of ${definition.title}` });
    const details = element('details', { on: { toggle: () => (details.open ? this.fillValues() : this.values.replaceChildren()) } },
      element('summary', {}, 'Values'), this.values);
    this.details = details;
    const button = element('button', { type: 'button', 'aria-pressed': 'false', 'aria-label': `${definition.title}: logarithmic`,
      on: { click: () => {
        this.log = !this.log;
        button.setAttribute('aria-pressed', String(this.log));
        this.render();
      } } }, 'log');
    this.figure = element('figure', { class: 'chart' }, element('div', { class: 'head' }, element('h3', { id: `${id}-title` }, definition.title),
      definition.fixed ? null : button), element('p', { class: 'about' }, definition.about), this.svg, this.readout, details);
    if (definition.log) button.click();
    const move = (event) => {
      const box = this.svg.getBoundingClientRect();
      this.pointed = true;
      moveTo(this.atPixel(((event.clientX - box.left) * this.width) / box.width));
    };
    this.svg.addEventListener('pointermove', move);
    this.svg.addEventListener('pointerdown', move);
    this.svg.addEventListener('pointerleave', (event) => {
      // A finger that is lifted leaves what it read.
      if (event.pointerType === 'mouse' && document.activeElement !== this.svg) moveTo(null);
    });
    this.svg.addEventListener('click', () => {
      const run = this.longest();
      if (run && state.cursor !== null) showSheetsAt(draw.between(run.curves[state.axis.name], run.curves.step, state.cursor));
    });
    this.svg.addEventListener('keydown', (event) => this.key(event));
    this.svg.addEventListener('blur', () => moveTo(null));
  }

  // All lines of the runs that are shown.
  all() {
    return visible().flatMap((run) => this.definition.lines(run).map((line, at) => line && { ...line, run, at }).filter(Boolean));
  }

  longest() {
    const end = (run) => run.curves[state.axis.name].at(-1) || 0;
    return visible().reduce((most, run) => (!most || end(run) > end(most) ? run : most), null);
  }

  render() {
    const { svg, definition } = this;
    const { fixed, references = [], zero } = definition;
    this.width = Math.max(240, Math.round(svg.clientWidth || 420));
    svg.replaceChildren();
    svg.setAttribute('viewBox', `0 0 ${this.width} ${HEIGHT}`);
    const lines = this.all();
    this.lines = lines;
    const [left, right, top, bottom] = [PAD.left, this.width - PAD.right, PAD.top, HEIGHT - PAD.bottom];
    const high = Math.max(0, ...visible().flatMap((run) => [run.curves[state.axis.name].at(-1) || 0]), ...lines.map((line) => line.x.at(-1) || 0));
    const log = this.log;
    // Ranges of points count; beside them, their means do not.
    const lists = lines.flatMap((line) => (line.low ? [line.low, line.high] : [line.y]));
    const include = [...references.map((reference) => reference.y), ...(zero && !log ? [0] : [])];
    const range = draw.extent(lists, { log, fixed, include });
    this.x = draw.scale(0, high || 1, left, right);
    this.invert = (pixel) => ((Math.min(right, Math.max(left, pixel)) - left) / (right - left)) * (high || 1);
    this.axisX(high || 1, bottom, left, right);
    if (!range) {
      svg.append(drawn('text', { x: (left + right) / 2, y: (top + bottom) / 2, 'text-anchor': 'middle' }, lines.length
        ? 'nothing that can be drawn' : 'no run with these values is shown'));
      this.y = null;
      this.cursor = drawn('g');
      svg.append(this.cursor);
      this.point();
      return;
    }
    const y = draw.scale(range[0], range[1], bottom, top, log);
    this.y = y;
    const ticks = log ? draw.logTicks(...range) : draw.ticks(...range, 5);
    for (const tick of ticks) {
      svg.append(drawn('line', { class: 'gridline', x1: left, x2: right, y1: y(tick), y2: y(tick) }),
        drawn('text', { x: left - 7, y: y(tick) + 4, 'text-anchor': 'end' }, draw.number(Number(tick.toPrecision(6)))));
    }
    svg.append(drawn('line', { class: 'axis', x1: left, x2: right, y1: bottom, y2: bottom }));
    // Curves do not leave the chart.
    const clip = `${svg.id}-clip`;
    const frame = drawn('clipPath', { id: clip });
    frame.append(drawn('rect', { x: left, y: top - 3, width: right - left + 2, height: bottom - top + 6 }));
    svg.append(frame);
    for (const reference of references) {
      if (log && reference.y <= 0) continue;
      svg.append(drawn('line', { class: 'reference', x1: left, x2: right, y1: y(reference.y), y2: y(reference.y) }));
    }
    this.alarms(bottom, top);
    const group = drawn('g', { 'clip-path': `url(#${clip})` });
    for (const line of lines) {
      const colour = (made) => coloured(made, colourOf(line.run, line.at));
      if (line.low) group.append(colour(drawn('path', { class: 'band', d: draw.band(line.x, line.low, line.high, this.x, y, log) })));
      const smoothed = state.smoothing > 0 && !line.dots && !(line.at === 1 && definition.group === 'Quality');
      const dash = { 'stroke-dasharray': DASHES[line.at % DASHES.length] };
      if (smoothed) group.append(colour(drawn('path', { class: 'curve raw', d: draw.path(line.x, line.y, this.x, y, log) })));
      const values = smoothed ? draw.smooth(line.y, state.smoothing) : line.y;
      group.append(colour(drawn('path', { class: 'curve', d: draw.path(line.x, values, this.x, y, log), ...dash })));
      if (line.dots && line.x.length < 80) {
        line.x.forEach((x, i) => {
          if (line.y[i] === null || (log && line.y[i] <= 0)) return;
          group.append(colour(drawn('circle', { class: 'dot', cx: this.x(x), cy: y(line.y[i]), r: 3 })));
        });
      }
    }
    svg.append(group);
    for (const reference of references) {
      if (log && reference.y <= 0) continue;
      svg.append(drawn('text', { class: 'reference-text', x: right - 2, y: y(reference.y) - 4, 'text-anchor': 'end' }, reference.label));
    }
    this.cursor = drawn('g');
    svg.append(this.cursor);
    this.point();
    if (this.details.open) this.fillValues();
  }

  axisX(high, bottom, left, right) {
    // Time in the unit that suits the whole.
    const [unit, name] = state.axis.name !== 'seconds' ? [1, state.axis.unit]
      : high < 180 ? [1, 'seconds of training'] : high < 3 * 3600 ? [60, 'minutes of training'] : [3600, 'hours of training'];
    const ticks = draw.ticks(0, high / unit, Math.max(2, Math.min(6, (right - left) / 75)));
    const [thousands, sign] = high / unit >= 1e6 ? [1e6, ' M'] : high / unit >= 1e4 ? [1e3, ' k'] : [1, ''];
    const short = (value) => draw.number(value / thousands) + (value ? sign : '');
    for (const tick of ticks) {
      this.svg.append(drawn('line', { class: 'axis', x1: this.x(tick * unit), x2: this.x(tick * unit), y1: bottom, y2: bottom + 4 }),
        drawn('text', { x: this.x(tick * unit), y: bottom + 15, 'text-anchor': 'middle' }, short(tick)));
    }
    this.svg.append(drawn('text', { x: (left + right) / 2, y: HEIGHT - 2, 'text-anchor': 'middle' }, name));
  }

  // A mark for each alarm, one where several fall together; and a ring where a run was ended.
  alarms(bottom, top) {
    for (const run of visible()) {
      let before = -Infinity;
      for (const alarm of run.alarms) {
        const x = this.x(run.on(state.axis, alarm.step));
        if (x - before < 3) continue;
        before = x;
        const mark = drawn('path', { class: 'alarm-mark', d: `M${x.toFixed(1)} ${bottom - 9}l5 9h-10z` });
        mark.append(drawn('title', {}, `${alarmTitle(alarm.alarm)}, iteration ${draw.whole(alarm.step)}${several ? `, ${run.name}` : ''}`));
        this.svg.append(drawn('line', { class: 'alarm-line', x1: x, x2: x, y1: top, y2: bottom }), mark);
      }
      if (run.stopped) {
        const x = this.x(run.on(state.axis, run.stopped.step));
        this.svg.append(coloured(drawn('circle', { class: 'end-mark', cx: x, cy: bottom, r: 4 }), several ? run.index : 6));
      }
    }
  }

  atPixel(pixel) {
    return this.invert(pixel);
  }

  // The point of a line at the cursor, or its last one; −1 where the line does not reach there.
  indexOf(line) {
    if (state.cursor === null) return line.y.length - 1;
    const at = draw.nearest(line.x, state.cursor);
    if (at < 0) return -1;
    const gap = line.x.length > 1 ? (line.x.at(-1) - line.x[0]) / (line.x.length - 1) : Infinity;
    return state.cursor > line.x.at(-1) + 2 * gap ? -1 : at;
  }

  // Draws the cursor and says what is there.
  point() {
    this.cursor.replaceChildren();
    const { lines } = this;
    let where = null;
    const rows = visible().map((run) => [run, this.definition.series.map((_, at) => {
      const line = lines.find((one) => one.run === run && one.at === at);
      const index = line ? this.indexOf(line) : -1;
      if (!line || index < 0) return null;
      if (where === null) where = line.x[index];
      const value = line.y[index];
      const range = line.low && value !== null && line.low[index] !== line.high[index]
        ? `${draw.number(line.low[index])} to ${draw.number(line.high[index])}` : '';
      if (state.cursor !== null && value !== null && this.y && !(this.log && value <= 0)) {
        this.cursor.append(coloured(drawn('circle', { class: 'dot', cx: this.x(line.x[index]), cy: this.y(value), r: 3.6 }), colourOf(run, at)));
      }
      return { value, range };
    })]);
    if (state.cursor !== null) {
      const x = this.x(where === null ? state.cursor : where);
      this.cursor.prepend(drawn('line', { class: 'crosshair', x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
    }
    const at = where === null ? '' : this.place(where);
    this.fillReadout(rows, state.cursor === null ? (at ? `end: ${at}` : '') : at);
    const said = rows.map(([run, cells]) => `${several ? `${run.name}: ` : ''}${this.definition.series.map(({ label }, i) => (
      `${label} ${cells[i] ? draw.number(cells[i].value) : 'none'}`)).join(', ')}`);
    this.svg.setAttribute('aria-valuetext', `${at}: ${said.join('; ')}`);
    this.svg.setAttribute('aria-valuenow', String(where === null ? 0 : where));
    const run = this.longest();
    this.svg.setAttribute('aria-valuemax', String(run ? run.curves[state.axis.name].at(-1) || 0 : 0));
  }

  place(x) {
    const { axis } = state;
    if (axis.name === 'seconds') return `${axis.one} ${duration(x)}`;
    return axis.name === 'epoch' ? `${axis.one} ${draw.number(x)}` : `${axis.one} ${draw.whole(x)}`;
  }

  fillReadout(rows, where) {
    const head = element('tr', {}, element('th', { scope: 'col', class: 'where' }, where));
    this.definition.series.forEach(({ label }, at) => {
      const sample = drawn('svg', { class: 'sample', viewBox: '0 0 26 8', 'aria-hidden': 'true' });
      const line = drawn('path', { class: 'curve', d: 'M1 4H25', 'stroke-dasharray': DASHES[at % DASHES.length] });
      sample.append(coloured(line, several ? 6 : at));
      head.append(element('th', { scope: 'col' }, sample, label));
    });
    const body = rows.map(([run, cells]) => element('tr', {},
      element('th', { scope: 'row' }, several ? runLabel(run) : ''),
      ...cells.map((cell) => element('td', {}, cell ? draw.number(cell.value) : '–', cell && cell.range ? element('small', {}, cell.range) : null))));
    this.readout.replaceChildren(element('thead', {}, head), element('tbody', {}, ...body));
  }

  // The same numbers as a table, made when it is asked for.
  fillValues() {
    const { axis } = state;
    const columns = this.lines;
    const places = [...new Set(columns.flatMap((line) => line.x))].sort((a, b) => a - b);
    const head = element('tr', {}, element('th', { scope: 'col' }, axis.title));
    for (const line of columns) {
      const { label } = this.definition.series[line.at];
      head.append(element('th', { scope: 'col' }, several ? `${line.run.name}: ${label}` : label));
    }
    const at = columns.map(() => 0);
    const rows = places.map((x) => {
      const row = element('tr', {}, element('th', { scope: 'row' }, axis.name === 'seconds' ? duration(x) : draw.number(x)));
      columns.forEach((line, i) => {
        const here = line.x[at[i]] === x;
        row.append(element('td', {}, here ? draw.number(line.y[at[i]]) : ''));
        if (here) at[i] += 1;
      });
      return row;
    });
    this.values.replaceChildren(element('table', { class: 'data' }, element('thead', {}, head), element('tbody', {}, ...rows)));
  }

  key(event) {
    const line = this.lines.reduce((most, one) => (!most || one.x.length > most.x.length ? one : most), null);
    if (!line) return;
    const end = line.x.length - 1;
    const at = state.cursor === null ? end : draw.nearest(line.x, state.cursor);
    const far = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: at - far, ArrowDown: at - far, ArrowRight: at + far, ArrowUp: at + far,
      PageDown: at - 10, PageUp: at + 10, Home: 0, End: end }[event.key];
    if (event.key === 'Escape') moveTo(null);
    else if (event.key === 'Enter') showSheetsAt(draw.between(line.run.curves[state.axis.name], line.run.curves.step, line.x[at]));
    else if (to !== undefined) moveTo(line.x[Math.min(end, Math.max(0, to))]);
    else return;
    event.preventDefault();
  }
}

// Reads all charts off at `x`; `null` for their ends. Once a frame.
let asked = false;
function moveTo(x) {
  state.cursor = x;
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    charts.forEach((chart) => chart.point());
  });
}
function renderAll() {
  charts.forEach((chart) => chart.render());
}

function makeCharts() {
  const all = definitions();
  for (const group of GROUPS) {
    const members = all.filter((definition) => definition.group === group);
    if (!members.length) continue;
    const grid = element('div', { class: 'grid' });
    const id = `group-${GROUPS.indexOf(group)}`;
    $('charts').append(element('section', { 'aria-labelledby': id }, element('h2', { id }, group), grid));
    for (const definition of members) {
      const chart = new Chart(definition, charts.length);
      charts.push(chart);
      grid.append(chart.figure);
    }
  }
  let width = 0;
  new ResizeObserver(() => {
    if ($('charts').clientWidth === width) return;
    width = $('charts').clientWidth;
    renderAll();
  }).observe($('charts'));
  renderAll();
}

function makeTools() {
  if (several) {
    for (const run of data.runs) {
      const box = element('input', { type: 'checkbox', checked: true, on: { change: () => {
        state.shown[run.index] = box.checked;
        if (times.length) showSheets();
        renderAll();
      } } });
      box.style.accentColor = `var(--c${run.index % COLOURS})`;
      $('chips').append(element('label', { title: run.name }, box, swatch(run.index), element('span', {}, run.name)));
    }
  }
  for (const axis of AXES) {
    // A log without them has zeros alone.
    if (!data.runs.some((run) => (run.curves[axis.name].at(-1) || 0) > 0)) continue;
    const choice = element('input', { type: 'radio', name: 'axis', value: axis.name, checked: axis === state.axis, on: { change: () => {
      state.axis = axis;
      state.cursor = null;
      renderAll();
    } } });
    $('axes').append(element('label', {}, choice, element('span', {}, axis.title)));
  }
  $('smoothing').addEventListener('input', () => {
    state.smoothing = Number($('smoothing').value);
    renderAll();
  });
}

// ---- Settings and notes -------------------------------------------------------------------------------------------

const title = (name) => name.replace(/_/g, ' ');
function showSettings() {
  const runs = data.runs.filter((run) => run.config.length);
  $('settings-section').hidden = !runs.length;
  if (!runs.length) return;
  const value = (text, name = 'dd') => element(name, text === null || text === undefined ? { class: 'none' } : {},
    text === undefined ? 'unknown' : text === null ? 'not given' : text);
  if (!several) {
    $('settings').append(element('dl', { class: 'pairs' }, ...runs[0].config.map(([name, text]) => (
      element('div', {}, element('dt', {}, title(name)), value(text))))));
    return;
  }
  const maps = runs.map((run) => new Map(run.config));
  const names = [...new Set(runs.flatMap((run) => run.config.map(([name]) => name)))];
  const differs = (name) => maps.some((map) => map.get(name) !== maps[0].get(name));
  const table = (some, caption) => element('div', { class: 'wide', tabindex: '0', role: 'region', 'aria-label': caption },
    element('table', {}, element('caption', {}, caption), element('thead', {}, element('tr', {}, element('th', { scope: 'col' }, 'Setting'),
      ...runs.map((run) => element('th', { scope: 'col' }, runLabel(run))))),
    element('tbody', {}, ...some.map((name) => element('tr', {}, element('th', { scope: 'row' }, title(name)),
      ...maps.map((map) => value(map.get(name), 'td')))))));
  const different = names.filter(differs);
  $('settings').append(different.length ? table(different, 'How the runs differ')
    : element('p', {}, 'The runs have the same settings.'));
  const same = names.filter((name) => !differs(name));
  if (same.length) {
    $('settings').append(element('details', {}, element('summary', {}, `${same.length} settings that they share`),
      element('dl', { class: 'pairs' }, ...same.map((name) => element('div', {}, element('dt', {}, title(name)), value(maps[0].get(name)))))));
  }
}

function showNotes() {
  const notes = [...data.notes, ...data.runs.flatMap((run) => run.notes.map((note) => (several ? `${run.name}: ${note}` : note)))];
  $('notes-section').hidden = !notes.length;
  $('notes').append(...notes.map((note) => element('li', {}, `${note}.`)));
  $('made').textContent = `Made by dcgan-cuda ${data.version}.`;
}

showRuns();
showAlarms();
makeSheets();
makeTools();
makeCharts();
showSettings();
showNotes();
document.documentElement.dataset.ready = '';
