// What scripts/check-report runs.
'use strict';
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const zlib = require('node:zlib');
const { chromium } = require('playwright-core');
const draw = require('../src/report/page/draw.js');

const given = process.argv.slice(2);
const binary = process.env.BINARY || 'target/release/dcgan-cuda';
const shots = process.env.SHOTS || 'target/report';
let wrong = 0;
function check(name, holds, detail = '') {
  console.log(`${holds ? 'ok  ' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`);
  if (!holds) wrong += 1;
}
const settled = (page) => page.waitForTimeout(120);

// ---- Made-up runs -------------------------------------------------------------------------------------------------

// Numbers that look drawn at random and are the same each time.
function random(seed) {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647 - 0.5;
  };
}

// A PNG of one colour.
function png(side, rgb) {
  const chunk = (type, bytes) => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), bytes]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(bytes.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(zlib.crc32 ? zlib.crc32(body) : crc32(body), body.length + 4);
    return out;
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const row = Buffer.concat([Buffer.from([0]), Buffer.alloc(side * 3, Buffer.from(rgb))]);
  const pixels = zlib.deflateSync(Buffer.concat(Array(side).fill(row)));
  return Buffer.concat([
    Buffer.from('89504e470d0a1a0a', 'hex'),
    chunk('IHDR', header),
    chunk('IDAT', pixels),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

// A run with everything in it; returns its lines.
function makeRun(folder, { steps, every, seed, collapses = false, pictures = false, settings = {}, sheets = 6, metricsEvery = 5 }) {
  const noise = random(seed);
  const lines = [];
  for (let step = every; step <= steps; step += every) {
    const t = step / steps;
    const bad = collapses && t > 0.6;
    const accuracy = Math.min(1, bad ? 0.97 + 0.02 * noise() : 0.95 - 0.3 * t + 0.05 * noise());
    lines.push({
      step,
      epoch: step / 625,
      images_seen: step * 64,
      loss_d_real: bad ? 0.01 : 0.2 + 0.3 * t + 0.1 * noise(),
      loss_d_fake: bad ? 0.008 : 0.25 + 0.25 * t + 0.1 * noise(),
      loss_g: step === 7 * every ? null : bad ? 6 + noise() : 2.6 - 0.9 * t + 0.4 * noise(),
      ...(pictures ? { distance: 0.1 + 0.3 * Math.exp(-5 * t) + 0.01 * noise() } : {}),
      d_real_accuracy: accuracy,
      d_fake_accuracy: Math.min(1, accuracy + 0.02),
      d_real: 0.85 - 0.25 * t,
      d_fake: 0.15 + 0.2 * t,
      d_fake_after: 0.1 + 0.15 * t,
      d_skipped: 0,
      g_skipped: step > steps / 2 ? 1 : 0,
      images_per_sec: 1050 + 60 * noise(),
      elapsed_sec: (step * 64) / 1050,
      d_real_sign: 0.9 - 0.4 * t,
      d_certainty: bad ? 0.95 : 0.1 + 0.3 * t,
      d_gradient_norm: 0.8 + 0.5 * t + 0.2 * Math.abs(noise()),
      g_gradient_norm: bad ? 0.002 : 0.4 - 0.1 * t + 0.1 * Math.abs(noise()),
      lr_d: 2e-4 * (1 - t / 2),
      lr_g: 2e-4,
      d_left_out: Math.floor(step * 0.1 * t),
      g_left_out: 0,
      held_out_accuracy: accuracy - 0.02 - 0.12 * t,
      held_out_d: 0.83 - 0.3 * t,
      seen_accuracy: accuracy,
      seen_d: 0.85 - 0.25 * t,
      diversity: bad ? 0.12 : 1 - 0.5 * Math.exp(-6 * t),
      diversity_nearest: bad ? 0.1 : 1 - 0.6 * Math.exp(-6 * t),
    });
    if (step % (every * metricsEvery) === 0) {
      const falling = Math.exp(-4 * t);
      lines.push({
        step,
        metrics: {
          swd: { generated: 20 + 60 * falling + noise(), real: 7 },
          fid: { generated: 30 + 150 * falling, real: 4.2 },
          kid: { generated: 0.02 + 0.1 * falling, real: 0.0004 },
          precision: { generated: 0.3 + 0.4 * t, real: 0.78 },
          recall: { generated: bad ? 0.02 : 0.1 + 0.4 * t, real: 0.77 },
          'ms-ssim': { generated: bad ? 0.7 : 0.4 - 0.1 * t, real: 0.28 },
        },
        features: 'classifier 3f2a91',
        count: 512,
        seconds: 1.2,
      });
    }
  }
  if (collapses) {
    lines.push({
      step: Math.floor(steps * 0.61),
      alarm: 'collapse',
      seen: 'generated images are 0.12 times as far apart as real ones',
      helps: 'a lower --lr-d, or --balance adaptive',
    });
    lines.push({
      step: Math.floor(steps * 0.65),
      alarm: 'generator-starved',
      seen: 'the generator’s gradient fell to 0.002',
      helps: '--balance adaptive',
    });
  } else {
    lines.push({
      step: steps,
      stopped: 'equilibrium',
      why: 'the held-out accuracy stayed between 45 and 55 % for 500 iterations',
    });
  }
  fs.mkdirSync(path.join(folder, 'samples'), { recursive: true });
  fs.writeFileSync(path.join(folder, 'log.jsonl'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  fs.writeFileSync(
    path.join(folder, 'config.json'),
    JSON.stringify({ dataset: 'synthetic', steps: steps * 2, seed, data: null, ...settings }),
  );
  for (let i = 0; i < sheets; i++) {
    const step = String(Math.round((steps * i) / (sheets - 1))).padStart(6, '0');
    fs.writeFileSync(path.join(folder, 'samples', `step-${step}.png`), png(70, [40 * i, 250 - 40 * i, 90]));
  }
  return lines;
}

// ---- The page -----------------------------------------------------------------------------------------------------

function report(runs, out) {
  const began = Date.now();
  execFileSync(binary, ['report', ...runs, '--out', out], { stdio: ['ignore', 'pipe', 'pipe'] });
  console.log(
    `     ${path.basename(out)}: ${(fs.statSync(out).size / 1e6).toFixed(1)} MB, written in ${Date.now() - began} ms`,
  );
}

async function open(browser, file, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
  const page = await context.newPage();
  page.errors = [];
  page.fetched = [];
  page.on('pageerror', (error) => page.errors.push(error.message));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) page.errors.push(message.text());
  });
  page.on('request', (request) => {
    if (request.url() !== `file://${file}` && !request.url().startsWith('data:')) page.fetched.push(request.url());
  });
  page.on('dialog', (dialog) => {
    page.errors.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  const began = Date.now();
  await page.goto(`file://${file}`);
  await page.waitForSelector('html[data-ready]', { timeout: 60000 });
  page.ready = Date.now() - began;
  return page;
}

const titles = (page) => page.$$eval('.chart h3', (all) => all.map((title) => title.textContent));
const chart = (page, title) =>
  page.locator('.chart', { has: page.locator('h3', { hasText: new RegExp(`^${title}$`) }) });
// The numbers below a chart, by run, and where they are of.
async function reads(page, title) {
  return chart(page, title)
    .locator('.readout')
    .evaluate((table) => ({
      where: table.querySelector('.where').textContent,
      rows: [...table.querySelectorAll('tbody tr')].map((row) =>
        [...row.querySelectorAll('td')].map((cell) => cell.firstChild.textContent),
      ),
    }));
}
// Points at a chart at a share of its width.
async function pointAt(page, title, share) {
  const svg = chart(page, title).locator('> svg');
  await svg.scrollIntoViewIfNeeded();
  const box = await svg.boundingBox();
  await page.mouse.move(box.x + box.width * share, box.y + box.height / 2);
  await settled(page);
}

// Every chart has a curve within its frame.
async function allDrawn(page, name) {
  const empty = await page.$$eval('.chart', (all) =>
    all
      .filter((figure) => {
        const curves = [...figure.querySelectorAll(':scope > svg .curve')].map((curve) => curve.getAttribute('d'));
        return !curves.some((d) => d.length > 8) || curves.some((d) => /NaN|Infinity|undefined/.test(d));
      })
      .map((figure) => figure.querySelector('h3').textContent),
  );
  check(
    `${name}: every chart is drawn`,
    empty.length === 0 && (await titles(page)).length >= 4,
    empty.join(', ') || `${(await titles(page)).length} charts, ready after ${page.ready} ms`,
  );
  return empty;
}

async function quiet(page, name) {
  check(`${name}: nothing is fetched`, page.fetched.length === 0, page.fetched.join(' '));
  check(`${name}: no errors`, page.errors.length === 0, page.errors.join('; '));
}

// What is read off is what the log says.
async function tryReading(page, log) {
  const reports = log.filter((line) => 'epoch' in line);
  await pointAt(page, 'Loss of the discriminator', 0.5);
  const read = await reads(page, 'Loss of the discriminator');
  const step = Number(read.where.replace(/\D/g, ''));
  const there = reports.find((line) => line.step === step);
  const expected = there && [draw.number(there.loss_d_real), draw.number(there.loss_d_fake)];
  check(
    'the mouse reads what the log says',
    there && String(read.rows[0]) === String(expected),
    `${read.where}: ${read.rows[0]}`,
  );
  const other = await reads(page, 'Speed');
  check(
    'all charts are read off at once',
    there && other.where === read.where && other.rows[0][0] === draw.number(there.images_per_sec),
  );

  const svg = chart(page, 'Loss of the generator').locator('> svg');
  await svg.focus();
  await page.keyboard.press('Home');
  for (let i = 0; i < 6; i++) await page.keyboard.press('ArrowRight');
  await settled(page);
  let by = await reads(page, 'Loss of the generator');
  check(
    'the keyboard reaches each report; what is not finite is a gap',
    by.where === `iteration ${draw.whole(reports[6].step)}` && by.rows[0][0] === '–',
    `${by.where}: ${by.rows[0]}`,
  );
  const gaps = await svg.evaluate((found) => found.querySelector('.curve').getAttribute('d').match(/M/g).length);
  check('the curve has a gap there', gaps === 2, `${gaps} parts`);
  await page.keyboard.press('ArrowRight');
  await settled(page);
  by = await reads(page, 'Loss of the generator');
  check('and goes on after it', by.rows[0][0] === draw.number(reports[7].loss_g));
  const said = await svg.getAttribute('aria-valuetext');
  check('what is read off is said', said.includes(by.rows[0][0]) && said.startsWith(by.where), said);
  await page.keyboard.press('Escape');
  await settled(page);
  check('Escape goes back to the end', (await reads(page, 'Loss of the generator')).where.startsWith('end: '));
  await svg.blur();

  const metrics = log.filter((line) => line.metrics);
  await pointAt(page, 'FID', 0.55);
  const fid = await reads(page, 'FID');
  const line = metrics.find((one) => `iteration ${draw.whole(one.step)}` === fid.where);
  check(
    'metrics are read off, with their floor',
    line &&
      String(fid.rows[0]) === String([draw.number(line.metrics.fid.generated), draw.number(line.metrics.fid.real)]),
    `${fid.where}: ${fid.rows[0]}`,
  );
}

// A run with pictures beside one without.
async function tryDistance(page, log) {
  const title = 'Distance to the true image';
  const last = draw.number(log.filter((line) => 'epoch' in line).at(-1).distance);
  const { rows } = await reads(page, title);
  check('the distance to the true image is that of the log', rows[1][0] === last && rows[0][0] === '–', String(rows));
  const facts = await page.$$eval('#runs > li', (all) => all.map((run) => run.textContent));
  check(
    'and among the numbers of its run alone',
    facts[1].includes(`L1 to the true image${last}`) && !facts[0].includes('L1'),
  );
  const lowest = await chart(page, title).locator('> svg text[text-anchor=end]').first().textContent();
  check('its chart begins at 0', lowest === '0', lowest);
}

async function trySheets(page, folder) {
  const source = () => page.$eval('#sheets img', (image) => image.src);
  const loaded = () =>
    page.$eval('#sheets img', async (image) => {
      await image.decode();
      return image.naturalWidth;
    });
  const lastOne = await source();
  await page.focus('#time');
  await page.keyboard.press('Home');
  await settled(page);
  const first = await source();
  const expected = fs.readFileSync(
    path.join(folder, 'samples', fs.readdirSync(path.join(folder, 'samples')).sort()[0]),
  );
  check(
    'the slider shows the first sheet',
    first !== lastOne && first === `data:image/png;base64,${expected.toString('base64')}` && (await loaded()) > 0,
    await page.textContent('#time-text'),
  );
  await page.keyboard.press('ArrowRight');
  check('arrows go on', (await source()) !== first, await page.textContent('#time-text'));
  await page.click('#play');
  check('Play can be paused', (await page.textContent('#play')) === 'Pause');
  const seen = new Set();
  for (let i = 0; i < 150 && (await page.textContent('#play')) === 'Pause'; i++) {
    seen.add(await source());
    await page.waitForTimeout(100);
  }
  const sheets = Number(await page.getAttribute('#time', 'max')) + 1;
  check(
    'Play goes through the sheets and ends',
    seen.size >= Math.min(sheets, 4) - 1 && (await source()) === lastOne,
    `${seen.size} seen`,
  );
  await pointAt(page, 'Speed', 0.05);
  await page.mouse.down();
  await page.mouse.up();
  await settled(page);
  check(
    'a click on a chart shows the samples of that time',
    (await source()) !== lastOne,
    await page.textContent('#time-text'),
  );
  await page.mouse.move(5, 5);
}

async function tryTools(page, log) {
  const reports = log.filter((line) => 'epoch' in line);
  const label = (text) => page.locator('#axes label', { hasText: text });
  await label('Epochs').click();
  await pointAt(page, 'Speed', 0.99);
  const epoch = await reads(page, 'Speed');
  check('the axis becomes epochs', epoch.where === `epoch ${draw.number(reports.at(-1).epoch)}`, epoch.where);
  await label('Time').click();
  check('and time', /of training/.test(await chart(page, 'Speed').locator('> svg').textContent()));
  await label('Iterations').click();
  const log10 = chart(page, 'Loss of the generator').locator('button');
  const curve = () => chart(page, 'Loss of the generator').locator('> svg .curve').first().getAttribute('d');
  const before = await curve();
  await log10.click();
  check(
    'a chart becomes logarithmic',
    (await curve()) !== before && (await log10.getAttribute('aria-pressed')) === 'true',
  );
  await log10.click();
  check('and linear again', (await curve()) === before);
  await page.$eval('#smoothing', (input) => {
    input.value = 0.8;
    input.dispatchEvent(new Event('input', { bubbles: true }));
  });
  check(
    'curves are smoothed, with the others behind',
    (await chart(page, 'Speed').locator('> svg .curve.raw').count()) > 0,
  );
  await page.$eval('#smoothing', (input) => {
    input.value = 0;
    input.dispatchEvent(new Event('input', { bubbles: true }));
  });
  const details = chart(page, 'Loss of the generator').locator('details');
  await details.locator('summary').click();
  await settled(page);
  const rows = await details.locator('tbody tr').evaluateAll((all) => all.map((row) => row.textContent));
  check(
    'the table behind a chart has every value',
    rows.length === reports.length && rows[2] === `${draw.number(reports[2].step)}${draw.number(reports[2].loss_g)}`,
    `${rows.length} rows`,
  );
  await details.locator('summary').click();
}

async function trySeveral(page, names) {
  const lines = () => chart(page, 'Speed').locator('> svg .curve').count();
  const before = await lines();
  await page.locator('#chips input').first().uncheck();
  check(
    'a run is taken out of the charts',
    (await lines()) === before - 1 &&
      (await reads(page, 'Speed')).rows.length === before - 1 &&
      (await page.locator('#sheets figure:visible').count()) === names.length - 1,
  );
  await page.locator('#chips input').nth(1).uncheck();
  check('charts without runs say so', /no run/.test(await chart(page, 'Speed').locator('> svg').textContent()));
  for (const at of [0, 1]) await page.locator('#chips input').nth(at).check();
  check('and back', (await lines()) === before);
  const settings = await page.textContent('#settings .wide');
  check('the table shows how runs differ, and that alone', /balance/.test(settings) && !/dataset/.test(settings));
  check(
    'alarms are told with what helps',
    (await page.locator('#alarms li').count()) === 2 &&
      /What helps: a lower --lr-d/.test(await page.textContent('#alarms')),
  );
  check(
    'and marked in each chart',
    await page.$$eval('.chart > svg', (all) => all.every((svg) => svg.querySelectorAll('.alarm-mark').length === 2)),
  );
  await page.locator('#alarms button').first().click();
  await page.waitForTimeout(600);
  check('an alarm is shown in the charts', (await page.locator('.crosshair').count()) > 5);
  check('it says why a run stopped', /ended by --stop equilibrium: the held-out/.test(await page.textContent('#runs')));
}

// WCAG 2: contrast of two colours.
function contrast(a, b) {
  const light = (rgb) =>
    rgb
      .map((value) => value / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
}
async function tryColours(page, scheme) {
  await page.emulateMedia({ colorScheme: scheme });
  const found = await page.evaluate(() => {
    const probe = document.createElement('i');
    document.body.append(probe);
    const of = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
    };
    const all = Object.fromEntries(
      ['c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'card', 'ground', 'ink', 'soft', 'accent', 'accent-ink'].map(
        (name) => [name, of(name)],
      ),
    );
    probe.remove();
    return all;
  });
  const curves = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => contrast(found[`c${i}`], found.card));
  check(`${scheme}: curves stand out by 3 to 1`, Math.min(...curves) >= 3, curves.map((c) => c.toFixed(1)).join(' '));
  const texts = [
    ['ink', 'ground'],
    ['soft', 'card'],
    ['soft', 'ground'],
    ['accent-ink', 'accent'],
    ['accent', 'ground'],
  ].map(([a, b]) => contrast(found[a], found[b]));
  check(`${scheme}: text stands out by 4.5 to 1`, Math.min(...texts) >= 4.5, texts.map((c) => c.toFixed(1)).join(' '));
  // For those who see no red or no green: neighbours in the order of use differ (Viénot, Brettel and Mollon, 1999).
  const linear = (rgb) => rgb.map((v) => (v / 255) ** 2.2);
  const views = {
    protan: [
      [0.11238, 0.88762, 0],
      [0.11238, 0.88762, 0],
      [0.00401, -0.00401, 1],
    ],
    deutan: [
      [0.29275, 0.70725, 0],
      [0.29275, 0.70725, 0],
      [-0.02234, 0.02234, 1],
    ],
  };
  const seen = (rgb, view) =>
    view
      .map((row) => row.reduce((sum, v, i) => sum + v * linear(rgb)[i], 0))
      .map((v) => Math.max(0, v) ** (1 / 2.2) * 255);
  for (const [name, view] of Object.entries(views)) {
    const far = (i, j) => Math.hypot(...seen(found[`c${i}`], view).map((v, k) => v - seen(found[`c${j}`], view)[k]));
    const least = Math.min(far(0, 1), far(0, 2), far(1, 2), far(0, 3), far(1, 3), far(2, 3));
    check(
      `${scheme}: the first four colours differ for ${name}opes`,
      least > 35,
      `${least.toFixed(0)} grey levels at least`,
    );
  }
}

async function tryLooks(page, name) {
  const shot = (end, options) => page.screenshot({ path: path.join(shots, `${name}-${end}.png`), ...options });
  for (const scheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.evaluate(() => scrollTo({ top: 0, behavior: 'instant' }));
    await settled(page);
    await shot(scheme);
    await shot(`${scheme}-whole`, { fullPage: true });
  }
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.pdf({ path: path.join(shots, `${name}.pdf`), format: 'A4', printBackground: true });
  await page.emulateMedia({ media: 'print', colorScheme: 'dark' });
  await page.setViewportSize({ width: 760, height: 1000 });
  await settled(page);
  await shot('print', { fullPage: true });
  const printed = await page.evaluate(() => ({
    slider: document.getElementById('player').offsetHeight,
    sheets: [...document.querySelectorAll('#print-sheets img')].filter((image) => image.offsetHeight > 0).length,
    ground: getComputedStyle(document.body).backgroundColor,
  }));
  const wanted = await page.evaluate(() => data.runs.reduce((sum, run) => sum + Math.min(3, run.sheets.length), 0));
  check(
    `${name}: printed, sheets take the place of the slider`,
    printed.slider === 0 && printed.sheets === wanted,
    `${printed.sheets} sheets`,
  );
  check(`${name}: paper stays white`, printed.ground === 'rgb(255, 255, 255)', printed.ground);
  await page.emulateMedia({ media: 'screen', colorScheme: 'light' });
  await page.setViewportSize({ width: 390, height: 800 });
  await settled(page);
  await shot('phone');
  await shot('phone-whole', { fullPage: true });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  check(`${name}: nothing is wider than a phone`, wide <= 0, `${wide} px over`);
  await page.setViewportSize({ width: 1360, height: 900 });
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll('button, input, [role=slider], [role=region]')]
      .filter(
        (control) => !(control.ariaLabel || control.textContent.trim() || (control.labels && control.labels.length)),
      )
      .map((control) => control.id),
  );
  check(`${name}: every control has a name`, nameless.length === 0, nameless.join(' '));
}

async function tryTouch(browser, file) {
  const page = await open(browser, file, { hasTouch: true, viewport: { width: 390, height: 800 } });
  const svg = chart(page, 'Speed').locator('> svg');
  await svg.scrollIntoViewIfNeeded();
  const box = await svg.boundingBox();
  await page.touchscreen.tap(box.x + box.width / 2, box.y + box.height / 2);
  await settled(page);
  const { where } = await reads(page, 'Speed');
  check('a touch reads a chart off', /^iteration/.test(where), where);
  await page.context().close();
}

// What the page's arithmetic comes to.
function tryDrawing() {
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  check(
    'ticks are round',
    same(draw.ticks(0, 1, 5), [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1]) &&
      same(draw.ticks(-1, 1, 4), [-1, -0.5, 0, 0.5, 1]) &&
      draw.ticks(3, 3, 5).length === 1,
  );
  check(
    'logarithmic ticks',
    same(draw.logTicks(0.01, 100), [0.01, 0.1, 1, 10, 100]) && draw.logTicks(2e-4, 3e-4).length >= 2,
  );
  check(
    'a scale maps its ends',
    draw.scale(2, 4, 100, 0)(3) === 50 &&
      Math.abs(draw.scale(1, 100, 0, 10, true)(10) - 5) < 1e-12 &&
      draw.scale(1, 1, 0, 10)(1) === 5,
  );
  const list = [1, 4, 9, 16];
  check(
    'the nearest point',
    [0, 1, 2.4, 2.6, 12, 13, 99].every(
      (x) =>
        list[draw.nearest(list, x)] === list.reduce((best, v) => (Math.abs(v - x) < Math.abs(best - x) ? v : best)),
    ) && draw.nearest([], 1) === -1,
  );
  check(
    'between reports',
    draw.between([10, 20], [1, 3], 15) === 2 &&
      draw.between([10, 20], [1, 3], 5) === 0.5 &&
      draw.between([10, 20], [1, 3], 30) === 3 &&
      draw.between([10, 20], [1, 3], 20) === 3,
  );
  const x = (value) => value;
  check(
    'a path has gaps',
    draw.path([0, 1, 2, 3], [1, null, 2, 3], x, x) === 'M0.0 1.0h0.1M2.0 2.0L3.0 3.0' &&
      draw.path([0, 1], [0, 5], x, x, true) === 'M1.0 5.0h0.1',
  );
  check(
    'a band has gaps',
    draw.band([0, 1, 2, 3, 4], [0, 0, null, 1, 1], [2, 2, null, 3, 3], x, x) ===
      'M0.0 2.0L1.0 2.0L1.0 0.0L0.0 0.0ZM3.0 3.0L4.0 3.0L4.0 1.0L3.0 1.0Z',
  );
  check(
    'smoothing keeps constants and gaps',
    same(
      draw.smooth([2, null, 2, 2], 0.9).map((v) => v && Number(v.toFixed(9))),
      [2, null, 2, 2],
    ),
  );
  check(
    'numbers are short',
    same([0, 0.25170001, -3.14159, 1234.5, 2e-4, 1.5e9, null, 0.00123456, 99.996].map(draw.number), [
      '0',
      '0.2517',
      '−3.142',
      '1,235',
      '2e−4',
      '1.5e9',
      '–',
      '0.001235',
      '100',
    ]),
    [0.00123456, 1.5e9, 99.996].map(draw.number).join(' '),
  );
}

(async () => {
  fs.mkdirSync(shots, { recursive: true });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'report-'));
  const at = (name) => path.join(folder, name);
  tryDrawing();
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  try {
    const log = makeRun(at('adaptive'), { steps: 2000, every: 20, seed: 3, settings: { balance: 'adaptive' } });
    const other = makeRun(at('strong-d'), {
      steps: 2000,
      every: 20,
      seed: 4,
      collapses: true,
      pictures: true,
      settings: { balance: 'fixed', lr_d: 0.0008 },
    });
    report([at('adaptive')], at('one.html'));
    const one = await open(browser, at('one.html'));
    await allDrawn(one, 'one run');
    check('what a run has not is no chart', !(await titles(one)).includes('Distance to the true image'));
    await tryReading(one, log);
    await trySheets(one, at('adaptive'));
    await tryTools(one, log);
    for (const scheme of ['dark', 'light']) await tryColours(one, scheme);
    await tryLooks(one, 'one');
    await quiet(one, 'one run');

    report([at('adaptive'), at('strong-d')], at('two.html'));
    const two = await open(browser, at('two.html'));
    await allDrawn(two, 'two runs');
    await tryDistance(two, other);
    await trySeveral(two, ['adaptive', 'strong-d']);
    await tryLooks(two, 'two');
    await quiet(two, 'two runs');
    await tryTouch(browser, at('two.html'));

    report([at('strong-d')], at('pictures.html'));
    const pictures = await open(browser, at('pictures.html'));
    for (const [page, title] of [
      [one, 'Samples of the same noise'],
      [two, 'Samples of the same noise'],
      [pictures, 'Samples of the same pictures'],
    ]) {
      check(`${title}, it says`, (await page.textContent('#samples-title')) === title);
    }
    await allDrawn(pictures, 'a run with pictures');
    await quiet(pictures, 'a run with pictures');

    makeRun(at('long'), { steps: 100000, every: 1, seed: 5, sheets: 200 });
    report([at('long')], at('long.html'));
    const long = await open(browser, at('long.html'));
    await allDrawn(long, '100,000 reports');
    check('they are usable at once', long.ready < 3000, `${long.ready} ms`);
    const frames = await long.evaluate(async () => {
      const times = [];
      for (let i = 0; i < 20; i++) {
        const began = performance.now();
        moveTo(i * 4000);
        await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
        times.push(performance.now() - began);
      }
      return times.sort((a, b) => a - b)[10];
    });
    check('reading off follows the pointer', frames < 100, `${frames.toFixed(0)} ms`);
    check(
      'the page says that it is thinned',
      /mean and the range of every 128/.test(await long.textContent('#notes')),
      await long.textContent('#notes'),
    );
    await quiet(long, '100,000 reports');

    // Runs of the same name are told apart by the folders that they are in.
    const names = ['a', 'b'].map(
      (first) => at(`${first}<`) + '/script><script>alert(1)<' + '/script><img src=x onerror=alert(2)>',
    );
    const settings = {
      '<img src=x onerror=alert(3)>': '<' + '/script><script>alert(4)<' + '/script>',
      __proto__x: '"\u2028',
    };
    names.forEach((name, i) => makeRun(name, { steps: 100, every: 10, seed: 6 + i, settings: { ...settings, i } }));
    report(names, at('hostile.html'));
    const hostile = await open(browser, at('hostile.html'));
    await allDrawn(hostile, 'hostile runs');
    const heading = await hostile.textContent('#runs h3');
    check(
      'what is hostile is text',
      heading === 'a<' + '/script><script>alert(1)<' + '/script><img src=x onerror=alert(2)>' &&
        (await hostile.locator('main img[onerror]').count()) === 0 &&
        (await hostile.textContent('#settings')).includes('<script>alert(4)'),
      heading,
    );
    await quiet(hostile, 'hostile runs');

    for (const run of given) {
      const shown = path.basename(run);
      report([run], at(`${shown}.html`));
      const page = await open(browser, at(`${shown}.html`));
      await allDrawn(page, shown);
      await tryLooks(page, shown);
      await quiet(page, shown);
    }
  } finally {
    await browser.close();
    fs.rmSync(folder, { recursive: true });
  }
  process.exitCode = wrong ? 1 : 0;
})().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
