// The sample sheets over time.

const times = [...new Set(data.runs.flatMap((run) => run.sheets.map((sheet) => sheet.step)))].sort((a, b) => a - b);
// The newest sheet of a run at an iteration.
const sheetAt = (run, step) => run.sheets.filter((sheet) => sheet.step <= step).at(-1);
let playing = null;

function makeSheets() {
  const runs = data.runs.filter((run) => run.sheets.length);
  $('samples-section').hidden = !runs.length;
  if (!runs.length) return;
  if (runs.every((run) => run.columns.has('distance'))) $('samples-title').textContent = 'Samples of the same pictures';
  if (runs.length <= 2) $('look').className = runs.length === 2 ? 'beside two' : 'beside';
  for (const run of runs) {
    const width = Math.max(...run.sheets.map((sheet) => sheet.width));
    const picture = element('img', { alt: '' });
    const text = element('span', { class: several ? '' : 'hidden' });
    // Small ones are shown up to twice as large as they are.
    run.figure = element(
      'figure',
      {},
      picture,
      element('figcaption', {}, several ? swatch(run.index) : null, several ? element('b', {}, run.name) : null, text),
    );
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
    $('print-sheets').append(
      element(
        'div',
        {},
        element('h3', {}, run.name),
        element(
          'div',
          { class: 'three' },
          ...three.map((at) =>
            element(
              'figure',
              {},
              element('img', { src: run.sheets[at].src, alt: '' }),
              element('figcaption', {}, `iteration ${draw.whole(run.sheets[at].step)}`),
            ),
          ),
        ),
      ),
    );
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
