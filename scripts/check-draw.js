// What scripts/check-draw runs.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');

const [checkpoint] = process.argv.slice(2);
const photograph = process.env.PHOTOGRAPH;
const binary = process.env.BINARY || 'target/release/dcgan-cuda';
const shots = process.env.SHOTS || 'target/explore';
let wrong = 0;
function check(name, holds, detail = '') {
  console.log(`${holds ? 'ok  ' : 'FAIL'} ${name}${detail ? `: ${detail}` : ''}`);
  if (!holds) wrong += 1;
}

async function start() {
  const options = ['explore', '--checkpoint', checkpoint, '--device', 'cpu'];
  const server = spawn(binary, options, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  for await (const chunk of server.stdout) {
    text += chunk;
    const address = /http:\/\/\S+\//.exec(text);
    if (address) return { server, address: address[0] };
  }
  throw new Error(`no address: ${text}`);
}

// What is on a canvas: a number that changes with it, how many pixels are dark, and whether it is all white, or opaque.
const pixels = (page, selector) => page.$eval(selector, (canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let [hash, dark, white, opaque] = [0, 0, true, true];
  for (let i = 0; i < data.length; i += 1) {
    hash = Math.imul(hash, 31) + data[i] | 0;
    if (i % 4 === 0 && data[i] < 128) dark += 1;
    white = white && data[i] === 255;
    opaque = opaque && (i % 4 !== 3 || data[i] === 255);
  }
  return { hash, dark, white, opaque };
});
const same = (a, b) => a.hash === b.hash;
const settled = (page) => page.waitForTimeout(700);
const isBlank = (drawing) => drawing.white;

// A curve in fractions of the canvas, as a hand would draw it.
async function stroke(page, points) {
  const box = await (await page.$('#drawing')).boundingBox();
  const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  await page.mouse.move(...at(points[0]));
  await page.mouse.down();
  for (const point of points.slice(1)) await page.mouse.move(...at(point), { steps: 4 });
  await page.mouse.up();
}
const oval = (x, y, a, b) => Array.from({ length: 33 }, (_, i) => [
  x + a * Math.cos(i * Math.PI / 16), y + b * Math.sin(i * Math.PI / 16)]);

async function face(page) {
  await stroke(page, oval(0.5, 0.52, 0.26, 0.34));
  for (const x of [0.4, 0.6]) await stroke(page, oval(x, 0.45, 0.055, 0.03));
  await stroke(page, [[0.5, 0.48], [0.47, 0.6], [0.52, 0.61]]);
  await stroke(page, [[0.4, 0.7], [0.5, 0.73], [0.6, 0.7]]);
}

// One sees what the pen does to the image, and what the page says, without scrolling.
async function inSight(page, name) {
  const { beyond, wide } = await page.evaluate(() => ({
    beyond: ['drawing', 'eraser', 'undo', 'clear', 'image'].filter((id) => {
      const box = document.getElementById(id).getBoundingClientRect();
      return box.top < 0 || box.left < 0 || box.bottom > innerHeight || box.right > innerWidth;
    }),
    wide: document.documentElement.scrollWidth - innerWidth,
  }));
  check(`${name}: drawing and image are in sight together`, beyond.length === 0, beyond.join(', '));
  check(`${name}: nothing is wider than the screen`, wide <= 0, `${wide} px over`);
}

// A finger draws and does not scroll; a second one beside it draws nothing.
async function touches(page, name) {
  const before = await pixels(page, '#drawing');
  const box = await (await page.$('#drawing')).boundingBox();
  const finger = (id, x, y) => ({ id, x: box.x + x * box.width, y: box.y + y * box.height });
  const session = await page.context().newCDPSession(page);
  const touch = (type, ...touchPoints) => session.send('Input.dispatchTouchEvent', { type, touchPoints });
  const down = async (ids) => {
    await touch('touchStart', finger(1, 0.1, 0.1));
    if (ids > 1) await touch('touchStart', finger(1, 0.1, 0.1), finger(2, 0.9, 0.9));
    for (const y of [0.2, 0.3, 0.4]) {
      await touch('touchMove', finger(1, 0.1, y), ...(ids > 1 ? [finger(2, 0.9 - y, 0.9)] : []));
    }
    await touch('touchEnd');
    await settled(page);
    return pixels(page, '#drawing');
  };
  const one = await down(1);
  const scrolled = await page.evaluate(() => scrollY);
  check(`${name}: a finger draws, and does not scroll`, one.dark > before.dark && scrolled === 0);
  // A tap is a click only some time after it ends: the next touch waits for it.
  const undone = async () => {
    await page.tap('#undo');
    for (let i = 0; i < 10 && !same(before, await pixels(page, '#drawing')); i += 1) await settled(page);
    return same(before, await pixels(page, '#drawing'));
  };
  check(`${name}: a tap on Undo takes it back`, await undone());
  const two = await down(2);
  check(`${name}: a second finger draws nothing`, same(one, two), `${one.dark - before.dark}, ${two.dark - before.dark}`);
  check(`${name}: and takes that back too`, await undone());
  await settled(page);
}

async function main() {
  fs.mkdirSync(shots, { recursive: true });
  const { server, address } = await start();
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  try {
    for (const [name, options] of [
      ['light', { viewport: { width: 1180, height: 780 }, colorScheme: 'light' }],
      ['dark', { viewport: { width: 1180, height: 780 }, colorScheme: 'dark' }],
      ['phone', { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true }],
      ['phone-dark', { viewport: { width: 375, height: 667 }, hasTouch: true, isMobile: true, colorScheme: 'dark' }],
      ['phone-aside', { viewport: { width: 844, height: 390 }, hasTouch: true, isMobile: true }],
    ]) {
      const page = await (await browser.newContext(options)).newPage();
      const complaints = [];
      page.on('console', (message) => { if (message.type() === 'error') complaints.push(message.text()); });
      page.on('pageerror', (error) => complaints.push(String(error)));
      page.on('request', (request) => {
        if (!request.url().startsWith(address) && !/^(data|blob):/.test(request.url())) complaints.push(request.url());
      });
      await page.goto(address);
      await page.waitForSelector('html[data-ready]');
      check(`${name}: paper is blank at first`, isBlank(await pixels(page, '#drawing')));
      await face(page);
      await settled(page);
      const drawing = await pixels(page, '#drawing');
      const image = await pixels(page, '#image');
      check(`${name}: a stroke leaves ink`, !isBlank(drawing));
      check(`${name}: there is an image of it`, image.opaque);
      await page.screenshot({ path: path.join(shots, `draw-${name}.png`) });
      await inSight(page, name);
      if (options.hasTouch) await touches(page, name);
      await stroke(page, oval(0.5, 0.2, 0.2, 0.1));
      await settled(page);
      check(`${name}: the image follows the pen`, !same(image, await pixels(page, '#image')));
      await page.click('#undo');
      await settled(page);
      check(`${name}: undo takes the last stroke back`, same(drawing, await pixels(page, '#drawing'))
        && same(image, await pixels(page, '#image')));
      await page.click('#redo');
      await page.keyboard.press('Control+z');
      await settled(page);
      check(`${name}: redo, and undo by keyboard`, same(drawing, await pixels(page, '#drawing')));
      await page.click('#eraser');
      check(`${name}: the eraser is on`, await page.getAttribute('#eraser', 'aria-pressed') === 'true');
      await stroke(page, [[0.45, 0.72], [0.6, 0.72]]);
      await settled(page);
      check(`${name}: it takes ink away`, (await pixels(page, '#drawing')).dark < drawing.dark);
      await page.click('#clear');
      await settled(page);
      check(`${name}: clear leaves paper`, isBlank(await pixels(page, '#drawing')));
      if (photograph) {
        await page.setInputFiles('#file', photograph);
        await settled(page);
        check(`${name}: edges of a photograph`, !isBlank(await pixels(page, '#drawing')));
        await page.screenshot({ path: path.join(shots, `draw-${name}-photograph.png`) });
      }
      const unnamed = await page.$$eval('button, input, canvas', (all) => all.filter((element) => !(
        element.getAttribute('aria-label') || element.textContent.trim())).map((element) => element.id));
      check(`${name}: everything has a name`, unnamed.length === 0, unnamed.join(', '));
      check(`${name}: nothing was complained of, and nothing asked for elsewhere`, complaints.length === 0,
        complaints.join('; '));
      await page.context().close();
    }
  } finally {
    await browser.close();
    server.kill();
  }
  process.exit(wrong ? 1 : 0);
}
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
