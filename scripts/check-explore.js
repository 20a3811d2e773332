// What scripts/check-explore runs.
'use strict';
const { spawn, execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { chromium } = require('playwright-core');

const [checkpoint, directions] = process.argv.slice(2);
const binary = process.env.BINARY || 'target/release/dcgan-cuda';
const shots = process.env.SHOTS || 'target/explore';
const options = ['--checkpoint', checkpoint, '--device', 'cpu', ...(directions ? ['--directions', directions] : [])];
let wrong = 0;
function check(name, holds, detail = '') {
  console.log(`${holds ? 'ok  ' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`);
  if (!holds) wrong += 1;
}

async function start() {
  const server = spawn(binary, ['explore', ...options], { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  for await (const chunk of server.stdout) {
    text += chunk;
    const address = /http:\/\/\S+\//.exec(text);
    if (address) return { server, address: address[0] };
  }
  throw new Error(`no address: ${text}`);
}

const ready = (page) => page.waitForSelector('html[data-ready]', { timeout: 60000 });
// The pixels of a canvas.
const pixels = (page, selector) => page.$eval(selector, (canvas) => Array.from(
  canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data));
const status = (page) => page.textContent('#status');
const settled = (page) => page.waitForTimeout(400);
const farthest = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
// The middle of the times between moving a slider and its picture, in ms.
async function moves(page, count) {
  await page.evaluate(() => performance.clearMeasures('picture'));
  for (let i = 0; i < count; i++) {
    await page.$eval('#sliders input', (input, value) => {
      input.value = value;
      input.dispatchEvent(new Event('input', { bubbles: true }));
    }, (i % 40) / 10 - 2);
    await page.waitForFunction((n) => performance.getEntriesByName('picture').length >= n, i + 1);
  }
  const times = await page.evaluate(() => performance.getEntriesByName('picture').map((entry) => entry.duration));
  times.sort((a, b) => a - b);
  return { median: times[times.length >> 1], high: times[Math.floor(times.length * 0.95)] };
}

async function tryPage(browser, address, folder) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, acceptDownloads: true });
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
  const elsewhere = [];
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(address) && !/^(data|blob):/.test(url)) elsewhere.push(url);
  });
  await page.goto(address);
  await ready(page);

  const download = async (button) => {
    const [got] = await Promise.all([page.waitForEvent('download'), page.click(button)]);
    const to = path.join(folder, got.suggestedFilename());
    await got.saveAs(to);
    return to;
  };
  // The image and the vector of seed 5, against `sample`.
  await page.fill('#seed', '5');
  await page.keyboard.press('Enter');
  await settled(page);
  const image = await download('#image');
  const vector = await download('#vector');
  const rgb = async (file) => {
    const bytes = fs.readFileSync(file).toString('base64');
    return page.evaluate(async (coded) => {
      const bytes = Uint8Array.from(atob(coded), (character) => character.charCodeAt(0));
      const picture = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
      const canvas = new OffscreenCanvas(picture.width, picture.height);
      const context = canvas.getContext('2d');
      context.drawImage(picture, 0, 0);
      return Array.from(context.getImageData(0, 0, picture.width, picture.height).data);
    }, bytes);
  };
  for (const [name, from] of [['seed', ['--seed', '5', '--count', '1']], ['vector', ['--latents', vector]]]) {
    const to = path.join(folder, name);
    execFileSync(binary, ['sample', '--checkpoint', checkpoint, '--device', 'cpu', '--quiet', '--out', to, ...from]);
    const file = fs.readdirSync(to).find((entry) => entry.endsWith('.png'));
    const far = farthest(await rgb(image), await rgb(path.join(to, file)));
    check(`the image downloaded is that of sample by ${name}`, far <= 1, `${far} grey levels at most`);
  }

  // A slider, by keyboard, and its history.
  const before = await pixels(page, '#face');
  await page.focus('#sliders input');
  for (let i = 0; i < 30; i++) await page.keyboard.press('ArrowRight');
  await settled(page);
  const moved = await pixels(page, '#face');
  check('a slider moves the face', farthest(before, moved) > 10, await page.$eval('#sliders input', (i) => i.ariaValueText));
  while (await page.isEnabled('#undo')) {
    if ((await page.textContent('#caption')) === 'seed 5') break;
    await page.keyboard.press('Control+z');
    await page.waitForTimeout(100);
  }
  await settled(page);
  check('undo takes it back', farthest(before, await pixels(page, '#face')) === 0);
  const { median, high } = await moves(page, 40);
  check('a move of a slider is painted within 50 ms', median <= 50, `median ${median.toFixed(1)} ms, 95 % ${high.toFixed(1)} ms`);

  // Arithmetic: two by drag and drop, one by keyboard.
  const tiles = page.locator('#gallery .tile');
  await page.locator('#history-section').scrollIntoViewIfNeeded();
  await page.mouse.wheel(0, 2000);
  await settled(page);
  await tiles.nth(0).dragTo(page.locator('#place-A'));
  await tiles.nth(1).dragTo(page.locator('#place-B'));
  await settled(page);
  await tiles.nth(2).focus();
  await page.keyboard.press('c');
  await page.waitForSelector('#result:not([disabled])', { timeout: 5000 });
  await page.click('#result');
  await settled(page);
  check('faces are dragged, and their sum becomes current', (await page.textContent('#caption')).includes(') − ('),
    await page.textContent('#caption'));
  await page.screenshot({ path: path.join(shots, 'light.png'), fullPage: true });

  // A photograph: the image that was downloaded comes back.
  const began = Date.now();
  await page.setInputFiles('#file', image);
  await page.waitForFunction(() => /dB/.test(document.getElementById('status').textContent), null, { timeout: 120000 });
  const said = await status(page);
  const found = Number(/([\d.]+) dB/.exec(said)[1]);
  check('a photograph is found', found > 20, `${said} ${((Date.now() - began) / 1000).toFixed(1)} s`);
  await page.setInputFiles('#file', vector);
  await settled(page);
  check('a vector file opens', farthest(before, await pixels(page, '#face')) === 0, await status(page));
  await page.setInputFiles('#file', { name: 'bad.safetensors', mimeType: '', buffer: Buffer.from('nonsense') });
  await settled(page);
  check('a bad file is refused in words', /not a safetensors file/.test(await status(page)), await status(page));

  await page.emulateMedia({ colorScheme: 'dark' });
  await page.screenshot({ path: path.join(shots, 'dark.png'), fullPage: true });
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize({ width: 390, height: 800 });
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: path.join(shots, 'phone.png') });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  check('nothing is wider than a phone', wide <= 0, `${wide} px over`);
  await page.evaluate(() => document.getElementById('controls').scrollIntoView());
  await page.screenshot({ path: path.join(shots, 'phone-sliders.png') });
  const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input')].filter((control) => !(
    control.ariaLabel || control.textContent.trim() || (control.labels && control.labels.length))).map((c) => c.id));
  check('every control has a name', nameless.length === 0, nameless.join(' '));
  check('nothing is asked elsewhere', elsewhere.length === 0, elsewhere.join(' '));
  check('no errors', errors.length === 0, errors.join('; '));
  // For the shared file: pictures of some seeds.
  const pictures = [];
  for (const seed of ['0', '7', '123456789012']) {
    await page.fill('#seed', seed);
    await page.press('#seed', 'Enter');
    await settled(page);
    pictures.push([seed, await pixels(page, '#face')]);
  }
  await page.close();
  return pictures;
}

async function tryShared(browser, folder, pictures) {
  const file = path.join(folder, 'shared.html');
  console.log(execFileSync(binary, ['explore', ...options, '--share', file]).toString().trim());
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, offline: true });
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
  await page.goto(`file://${file}`);
  await ready(page);
  for (const [seed, expected] of pictures) {
    await page.fill('#seed', seed);
    await page.press('#seed', 'Enter');
    await settled(page);
    const far = farthest(expected, await pixels(page, '#face'));
    check(`the shared file draws seed ${seed} as the server`, far <= 2, `${far} grey levels at most`);
  }
  const { median, high } = await moves(page, 20);
  console.log(`     a move of a slider in the shared file: median ${median.toFixed(1)} ms, 95 % ${high.toFixed(1)} ms`);
  check('no errors in the shared file', errors.length === 0, errors.join('; '));
  await page.screenshot({ path: path.join(shots, 'shared.png') });
}

(async () => {
  fs.mkdirSync(shots, { recursive: true });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'explore-'));
  const { server, address } = await start();
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  try {
    const pictures = await tryPage(browser, address, folder);
    await tryShared(browser, folder, pictures);
  } finally {
    await browser.close();
    const ended = new Promise((resolve) => server.on('exit', (code, signal) => resolve(code ?? signal)));
    const began = Date.now();
    server.kill('SIGINT');
    const code = await ended;
    check('Ctrl-C ends it at once', code === 130 && Date.now() - began < 500, `${code}, ${Date.now() - began} ms`);
    fs.rmSync(folder, { recursive: true });
  }
  process.exitCode = wrong ? 1 : 0;
})().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
