// The charts: drawn, read off, and as tables.

const HEIGHT = 210;
const PAD = { left: 54, right: 20, top: 12, bottom: 31 };
const DASHES = ['', '6 4', '1.5 4'];

const charts = [];

// What is drawn of a run for each series: { x, y, low, high } in the axis at hand.
function reportLines(definition) {
  return (run) =>
    definition.series.map(({ column }) => {
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
  const all = REPORT_CHARTS.filter((definition) =>
    data.runs.some((run) =>
      definition.series.some(({ column }) => {
        const found = run.columns.get(column);
        return found && !(definition.unlessZero && found.mean.every((value) => !value));
      }),
    ),
  ).map((definition) => ({ ...definition, lines: reportLines(definition) }));
  const names = [...new Set(data.runs.flatMap((run) => run.metrics.flatMap((line) => Object.keys(line.values))))];
  for (const name of inOrder(names)) {
    const [title, about] = metricTitle(name);
    const features = [
      ...new Set(
        data.runs.flatMap((run) =>
          run.metrics.filter((line) => Object.hasOwn(line.values, name)).map((line) => line.features),
        ),
      ),
    ].filter(Boolean);
    const wants = !['swd', 'ms-ssim', 'neighbours'].includes(name) && features.length > 0;
    all.push({
      group: 'Quality',
      title,
      log: false,
      series: [series(name, 'generated'), series(name, 'real, the floor')],
      about: `${about}${wants ? ` Features: ${features.slice(0, 4).join('; ')}.` : ''}`,
      fixed: ['precision', 'recall', 'coverage'].includes(name) ? [0, 1] : null,
      zero: name === 'swd',
      lines: metricLines(name),
    });
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
    this.svg = drawn('svg', {
      id,
      role: 'slider',
      tabindex: '0',
      'aria-label': `${definition.title}: read off`,
      'aria-valuemin': '0',
    });
    this.readout = element('table', { class: 'readout' });
    this.values = element('div', {
      class: 'values',
      tabindex: '0',
      role: 'region',
      'aria-label': `Values of ${definition.title}`,
    });
    const details = element(
      'details',
      { on: { toggle: () => (details.open ? this.fillValues() : this.values.replaceChildren()) } },
      element('summary', {}, 'Values'),
      this.values,
    );
    this.details = details;
    const button = element(
      'button',
      {
        type: 'button',
        'aria-pressed': 'false',
        'aria-label': `${definition.title}: logarithmic`,
        on: {
          click: () => {
            this.log = !this.log;
            button.setAttribute('aria-pressed', String(this.log));
            this.render();
          },
        },
      },
      'log',
    );
    this.figure = element(
      'figure',
      { class: 'chart' },
      element(
        'div',
        { class: 'head' },
        element('h3', { id: `${id}-title` }, definition.title),
        definition.fixed ? null : button,
      ),
      element('p', { class: 'about' }, definition.about),
      this.svg,
      this.readout,
      details,
    );
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
      if (run && state.cursor !== null)
        showSheetsAt(draw.between(run.curves[state.axis.name], run.curves.step, state.cursor));
    });
    this.svg.addEventListener('keydown', (event) => this.key(event));
    this.svg.addEventListener('blur', () => moveTo(null));
  }

  // All lines of the runs that are shown.
  all() {
    return visible().flatMap((run) =>
      this.definition
        .lines(run)
        .map((line, at) => line && { ...line, run, at })
        .filter(Boolean),
    );
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
    const high = Math.max(
      0,
      ...visible().flatMap((run) => [run.curves[state.axis.name].at(-1) || 0]),
      ...lines.map((line) => line.x.at(-1) || 0),
    );
    const log = this.log;
    // Ranges of points count; beside them, their means do not.
    const lists = lines.flatMap((line) => (line.low ? [line.low, line.high] : [line.y]));
    const include = [...references.map((reference) => reference.y), ...(zero && !log ? [0] : [])];
    const range = draw.extent(lists, { log, fixed, include });
    this.x = draw.scale(0, high || 1, left, right);
    this.invert = (pixel) => ((Math.min(right, Math.max(left, pixel)) - left) / (right - left)) * (high || 1);
    this.axisX(high || 1, bottom, left, right);
    if (!range) {
      svg.append(
        drawn(
          'text',
          { x: (left + right) / 2, y: (top + bottom) / 2, 'text-anchor': 'middle' },
          lines.length ? 'nothing that can be drawn' : 'no run with these values is shown',
        ),
      );
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
      svg.append(
        drawn('line', { class: 'gridline', x1: left, x2: right, y1: y(tick), y2: y(tick) }),
        drawn('text', { x: left - 7, y: y(tick) + 4, 'text-anchor': 'end' }, draw.number(Number(tick.toPrecision(6)))),
      );
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
      if (line.low)
        group.append(
          colour(drawn('path', { class: 'band', d: draw.band(line.x, line.low, line.high, this.x, y, log) })),
        );
      const smoothed = state.smoothing > 0 && !line.dots && !(line.at === 1 && definition.group === 'Quality');
      const dash = { 'stroke-dasharray': DASHES[line.at % DASHES.length] };
      if (smoothed)
        group.append(colour(drawn('path', { class: 'curve raw', d: draw.path(line.x, line.y, this.x, y, log) })));
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
      svg.append(
        drawn(
          'text',
          { class: 'reference-text', x: right - 2, y: y(reference.y) - 4, 'text-anchor': 'end' },
          reference.label,
        ),
      );
    }
    this.cursor = drawn('g');
    svg.append(this.cursor);
    this.point();
    if (this.details.open) this.fillValues();
  }

  axisX(high, bottom, left, right) {
    // Time in the unit that suits the whole.
    const [unit, name] =
      state.axis.name !== 'seconds'
        ? [1, state.axis.unit]
        : high < 180
          ? [1, 'seconds of training']
          : high < 3 * 3600
            ? [60, 'minutes of training']
            : [3600, 'hours of training'];
    const ticks = draw.ticks(0, high / unit, Math.max(2, Math.min(6, (right - left) / 75)));
    const [thousands, sign] = high / unit >= 1e6 ? [1e6, ' M'] : high / unit >= 1e4 ? [1e3, ' k'] : [1, ''];
    const short = (value) => draw.number(value / thousands) + (value ? sign : '');
    for (const tick of ticks) {
      this.svg.append(
        drawn('line', { class: 'axis', x1: this.x(tick * unit), x2: this.x(tick * unit), y1: bottom, y2: bottom + 4 }),
        drawn('text', { x: this.x(tick * unit), y: bottom + 15, 'text-anchor': 'middle' }, short(tick)),
      );
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
        mark.append(
          drawn(
            'title',
            {},
            `${alarmTitle(alarm.alarm)}, iteration ${draw.whole(alarm.step)}${several ? `, ${run.name}` : ''}`,
          ),
        );
        this.svg.append(drawn('line', { class: 'alarm-line', x1: x, x2: x, y1: top, y2: bottom }), mark);
      }
      if (run.stopped) {
        const x = this.x(run.on(state.axis, run.stopped.step));
        this.svg.append(
          coloured(drawn('circle', { class: 'end-mark', cx: x, cy: bottom, r: 4 }), several ? run.index : 6),
        );
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
    const rows = visible().map((run) => [
      run,
      this.definition.series.map((_, at) => {
        const line = lines.find((one) => one.run === run && one.at === at);
        const index = line ? this.indexOf(line) : -1;
        if (!line || index < 0) return null;
        if (where === null) where = line.x[index];
        const value = line.y[index];
        const range =
          line.low && value !== null && line.low[index] !== line.high[index]
            ? `${draw.number(line.low[index])} to ${draw.number(line.high[index])}`
            : '';
        if (state.cursor !== null && value !== null && this.y && !(this.log && value <= 0)) {
          this.cursor.append(
            coloured(
              drawn('circle', { class: 'dot', cx: this.x(line.x[index]), cy: this.y(value), r: 3.6 }),
              colourOf(run, at),
            ),
          );
        }
        return { value, range };
      }),
    ]);
    if (state.cursor !== null) {
      const x = this.x(where === null ? state.cursor : where);
      this.cursor.prepend(drawn('line', { class: 'crosshair', x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
    }
    const at = where === null ? '' : this.place(where);
    this.fillReadout(rows, state.cursor === null ? (at ? `end: ${at}` : '') : at);
    const said = rows.map(
      ([run, cells]) =>
        `${several ? `${run.name}: ` : ''}${this.definition.series
          .map(({ label }, i) => `${label} ${cells[i] ? draw.number(cells[i].value) : 'none'}`)
          .join(', ')}`,
    );
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
    const body = rows.map(([run, cells]) =>
      element(
        'tr',
        {},
        element('th', { scope: 'row' }, several ? runLabel(run) : ''),
        ...cells.map((cell) =>
          element(
            'td',
            {},
            cell ? draw.number(cell.value) : '–',
            cell && cell.range ? element('small', {}, cell.range) : null,
          ),
        ),
      ),
    );
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
      const row = element(
        'tr',
        {},
        element('th', { scope: 'row' }, axis.name === 'seconds' ? duration(x) : draw.number(x)),
      );
      columns.forEach((line, i) => {
        const here = line.x[at[i]] === x;
        row.append(element('td', {}, here ? draw.number(line.y[at[i]]) : ''));
        if (here) at[i] += 1;
      });
      return row;
    });
    this.values.replaceChildren(
      element('table', { class: 'data' }, element('thead', {}, head), element('tbody', {}, ...rows)),
    );
  }

  key(event) {
    const line = this.lines.reduce((most, one) => (!most || one.x.length > most.x.length ? one : most), null);
    if (!line) return;
    const end = line.x.length - 1;
    const at = state.cursor === null ? end : draw.nearest(line.x, state.cursor);
    const far = event.shiftKey ? 10 : 1;
    const to = {
      ArrowLeft: at - far,
      ArrowDown: at - far,
      ArrowRight: at + far,
      ArrowUp: at + far,
      PageDown: at - 10,
      PageUp: at + 10,
      Home: 0,
      End: end,
    }[event.key];
    if (event.key === 'Escape') moveTo(null);
    else if (event.key === 'Enter')
      showSheetsAt(draw.between(line.run.curves[state.axis.name], line.run.curves.step, line.x[at]));
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
