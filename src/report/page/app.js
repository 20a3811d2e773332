// Runs, alarms, settings and notes; and the beginning of all.

function stateOf(run) {
  const done = draw.whole(run.last_step);
  if (run.stopped) {
    const why = run.stopped.why ? `: ${run.stopped.why}` : '';
    return `${done}${run.steps ? ` of ${draw.whole(run.steps)}` : ''} iterations, ended by --stop ${run.stopped.stopped}${why}`;
  }
  if (!run.steps) return `${done} iterations`;
  if (run.last_step < run.steps)
    return `${done} of ${draw.whole(run.steps)} iterations: still training, or interrupted`;
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
      facts.append(
        element(
          'div',
          {},
          element('dt', {}, title),
          element('dd', {}, value, ...(unit ? [' ', element('small', {}, unit)] : [])),
        ),
      );
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
    if (run.columns.has('distance')) fact('L1 to the true image', draw.number(last(run, 'distance')));
    const newest = new Map();
    for (const line of run.metrics) for (const [name, both] of Object.entries(line.values)) newest.set(name, both);
    for (const [name, both] of inOrder([...newest.keys()])
      .slice(0, 4)
      .map((one) => [one, newest.get(one)])) {
      fact(
        metricTitle(name)[0],
        draw.number(both.generated),
        typeof both.real === 'number' ? `real ${draw.number(both.real)}` : '',
      );
    }
    if (run.alarms.length) fact('Alarms', String(run.alarms.length));
    const item = element(
      'li',
      {},
      element('h3', {}, run.name),
      element(
        'p',
        { class: `state${run.steps && !run.stopped && run.last_step < run.steps ? ' warned' : ''}` },
        stateOf(run),
      ),
      facts,
    );
    $('runs').append(several ? coloured(item, run.index) : item);
  }
}

function showAlarms() {
  const alarms = data.runs.flatMap((run) => run.alarms.map((alarm) => ({ ...alarm, run })));
  alarms.sort((a, b) => a.step - b.step);
  $('alarms-section').hidden = !alarms.length;
  for (const { alarm, step, seen, helps, run } of alarms) {
    const name = alarmTitle(alarm);
    $('alarms').append(
      element(
        'li',
        {},
        element(
          'div',
          { class: 'head' },
          element('h3', {}, name),
          element('span', { class: 'of' }, `iteration ${draw.whole(step)}`),
          several ? element('span', { class: 'of' }, swatch(run.index), run.name) : null,
          element(
            'button',
            {
              type: 'button',
              'aria-label': `Show ${name} at iteration ${step} in the charts`,
              on: {
                click: () => {
                  moveTo(run.on(state.axis, step));
                  showSheetsAt(step);
                  $('tools').scrollIntoView();
                },
              },
            },
            'In the charts',
          ),
        ),
        element('p', {}, element('b', {}, 'Seen: '), seen || 'the log does not say'),
        helps ? element('p', {}, element('b', {}, 'What helps: '), helps) : null,
      ),
    );
  }
}

function makeTools() {
  if (several) {
    for (const run of data.runs) {
      const box = element('input', {
        type: 'checkbox',
        checked: true,
        on: {
          change: () => {
            state.shown[run.index] = box.checked;
            if (times.length) showSheets();
            renderAll();
          },
        },
      });
      box.style.accentColor = `var(--c${run.index % COLOURS})`;
      $('chips').append(element('label', { title: run.name }, box, swatch(run.index), element('span', {}, run.name)));
    }
  }
  for (const axis of AXES) {
    // A log without them has zeros alone.
    if (!data.runs.some((run) => (run.curves[axis.name].at(-1) || 0) > 0)) continue;
    const choice = element('input', {
      type: 'radio',
      name: 'axis',
      value: axis.name,
      checked: axis === state.axis,
      on: {
        change: () => {
          state.axis = axis;
          state.cursor = null;
          renderAll();
        },
      },
    });
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
  const value = (text, name = 'dd') =>
    element(
      name,
      text === null || text === undefined ? { class: 'none' } : {},
      text === undefined ? 'unknown' : text === null ? 'not given' : text,
    );
  if (!several) {
    $('settings').append(
      element(
        'dl',
        { class: 'pairs' },
        ...runs[0].config.map(([name, text]) => element('div', {}, element('dt', {}, title(name)), value(text))),
      ),
    );
    return;
  }
  const maps = runs.map((run) => new Map(run.config));
  const names = [...new Set(runs.flatMap((run) => run.config.map(([name]) => name)))];
  const differs = (name) => maps.some((map) => map.get(name) !== maps[0].get(name));
  const table = (some, caption) =>
    element(
      'div',
      { class: 'wide', tabindex: '0', role: 'region', 'aria-label': caption },
      element(
        'table',
        {},
        element('caption', {}, caption),
        element(
          'thead',
          {},
          element(
            'tr',
            {},
            element('th', { scope: 'col' }, 'Setting'),
            ...runs.map((run) => element('th', { scope: 'col' }, runLabel(run))),
          ),
        ),
        element(
          'tbody',
          {},
          ...some.map((name) =>
            element(
              'tr',
              {},
              element('th', { scope: 'row' }, title(name)),
              ...maps.map((map) => value(map.get(name), 'td')),
            ),
          ),
        ),
      ),
    );
  const different = names.filter(differs);
  $('settings').append(
    different.length ? table(different, 'How the runs differ') : element('p', {}, 'The runs have the same settings.'),
  );
  const same = names.filter((name) => !differs(name));
  if (same.length) {
    $('settings').append(
      element(
        'details',
        {},
        element('summary', {}, `${same.length} settings that they share`),
        element(
          'dl',
          { class: 'pairs' },
          ...same.map((name) => element('div', {}, element('dt', {}, title(name)), value(maps[0].get(name)))),
        ),
      ),
    );
  }
}

function showNotes() {
  const notes = [
    ...data.notes,
    ...data.runs.flatMap((run) => run.notes.map((note) => (several ? `${run.name}: ${note}` : note))),
  ];
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
