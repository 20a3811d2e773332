// The page. It keeps vectors and adds them up; what makes pictures of them is the engine: the server, or, in a shared
// file, a worker that runs the generator here.
'use strict';

const $ = (id) => document.getElementById(id);
const MOST_IMAGES = 32;
const MOST_HISTORY = 60;

// ---- What makes pictures ------------------------------------------------------------------------------------------

async function failed(answer) {
  return new Error((await answer.text()).trim() || `the server answers ${answer.status}`);
}

// render(vectors) → their RGBA; invert(rgb, told) → a vector, or no such function.
function serverEngine(model) {
  const post = async (path, body) => {
    let answer;
    try {
      answer = await fetch(path, { method: 'POST', body });
    } catch {
      throw new Error('the program that made this page has ended: start it again');
    }
    if (!answer.ok) throw await failed(answer);
    return answer;
  };
  return {
    async render(vectors) {
      const pictures = [];
      for (let at = 0; at < vectors.length; at += MOST_IMAGES) {
        const some = vectors.slice(at, at + MOST_IMAGES);
        const body = new Float32Array(some.length * model.latent);
        some.forEach((z, i) => body.set(z, i * model.latent));
        const answer = await post('images', body);
        const bytes = new Uint8ClampedArray(await answer.arrayBuffer());
        const each = bytes.length / some.length;
        for (let i = 0; i < some.length; i++) pictures.push(bytes.slice(i * each, (i + 1) * each));
      }
      return pictures;
    },
    async invert(rgb, told) {
      const reader = (await post('invert', rgb)).body.getReader();
      const decoder = new TextDecoder();
      let text = '';
      for (;;) {
        const { value, done } = await reader.read();
        if (done) throw new Error('the program that made this page has ended: start it again');
        text += decoder.decode(value, { stream: true });
        const lines = text.split('\n');
        text = lines.pop();
        for (const line of lines) {
          const event = JSON.parse(line);
          if (event.error) throw new Error(event.error);
          if (event.z) return { z: Float32Array.from(event.z), psnr: event.psnr };
          told(event.step, event.of);
        }
      }
    },
  };
}

function localEngine(model) {
  const source = `${$('latent').textContent}
    let make;
    onmessage = ({ data }) => {
      if (data.blocks) {
        make = latent.generator(data.blocks, data.bytes, data.half);
      } else {
        const picture = make(data.z);
        postMessage({ number: data.number, picture }, [picture.buffer]);
      }
    };`;
  const coded = atob($('weights').textContent);
  $('weights').remove();
  const bytes = Uint8Array.from(coded, (character) => character.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  const worker = new Worker(address);
  const waiting = new Map();
  let number = 0;
  worker.postMessage({ blocks: model.blocks, bytes, half: model.half }, [bytes.buffer]);
  worker.onmessage = ({ data }) => {
    waiting.get(data.number).resolve(data.picture);
    waiting.delete(data.number);
  };
  worker.onerror = (event) => {
    waiting.forEach(({ reject }) => reject(new Error(event.message || 'the generator cannot run in this browser')));
    waiting.clear();
  };
  const one = (z) => new Promise((resolve, reject) => {
    waiting.set(++number, { resolve, reject });
    worker.postMessage({ number, z });
  });
  return {
    // One after the other, so that the current face comes in between.
    async render(vectors) {
      const pictures = [];
      for (const z of vectors) pictures.push(await one(z));
      return pictures;
    },
  };
}

// ---- The page -----------------------------------------------------------------------------------------------------

let model;
let engine;
// What the current face is: a vector and where it is from, and how far each slider is moved.
let state;
const history = [];
let position = -1;
const places = { A: null, B: null, C: null };
let shownFace = null;
let result = null;
let saved = 0;

function say(text, wrong = false) {
  $('status').classList.toggle('wrong', wrong);
  $('status').textContent = text;
}
const complain = (error) => say(error.message, true);

function paint(canvas, picture) {
  canvas.width = model.size;
  canvas.height = model.size;
  canvas.getContext('2d').putImageData(new ImageData(picture, model.size, model.size), 0, 0);
}

const title = (name) => name.replace(/_/g, ' ');
const signed = (value) => (value > 0 ? '+' : value < 0 ? '−' : '') + Math.abs(value).toFixed(2);

// The way that a slider goes.
function way(name) {
  const component = /^z(\d+)$/.exec(name);
  if (component && !directions.has(name)) return { component: Number(component[1]) };
  const direction = directions.get(name);
  if (!state.keep || !direction.boundary) return direction;
  if (!direction.kept) {
    const others = model.directions.filter((other) => other.boundary && other !== direction);
    direction.kept = latent.without(direction.vector, others.map((other) => other.vector)) || direction.vector;
  }
  return { ...direction, vector: direction.kept };
}
const directions = new Map();

function current() {
  const z = Float64Array.from(state.base);
  for (const [name, value] of Object.entries(state.moved)) {
    const { component, vector } = way(name);
    if (component !== undefined) z[component] += value;
    else vector.forEach((v, i) => { z[i] += value * v; });
  }
  return Float32Array.from(z);
}

// Shows the current face. While a picture is made, only the last of what is wanted meanwhile is kept.
let making = false;
let measured = 0;
let wanted = null;
async function show(since = performance.now()) {
  wanted = { z: current(), since };
  updateSliders();
  if (making) return;
  making = true;
  try {
    while (wanted) {
      const { z, since: began } = wanted;
      wanted = null;
      const [picture] = await engine.render([z]);
      paint($('face'), picture);
      shownFace = { z, picture };
      requestAnimationFrame(() => {
        // What is measured is for those who ask; it must not pile up.
        if (++measured % 256 === 0) performance.clearMeasures('picture');
        performance.measure('picture', { start: began, end: performance.now() });
      });
    }
  } catch (error) {
    complain(error);
  } finally {
    making = false;
  }
}

function label() {
  const moved = Object.entries(state.moved).filter(([, value]) => value !== 0);
  return state.from + moved.map(([name, value]) => `, ${title(name)} ${signed(value)}`).join('');
}

// Keeps what is now the current face as a step of the history.
async function commit(text) {
  history.splice(position + 1);
  history.push({ state: structuredClone(state), label: label(), picture: null });
  if (history.length > MOST_HISTORY) history.shift();
  position = history.length - 1;
  const entry = history[position];
  say(text);
  await show();
  try {
    entry.picture = (await engine.render([current()]))[0];
  } catch (error) {
    complain(error);
  }
  drawHistory();
}

function go(to) {
  if (to < 0 || to >= history.length) return;
  position = to;
  state = structuredClone(history[to].state);
  say(`Back at: ${history[to].label}`);
  drawHistory();
  show();
}

function become(z, from, seed) {
  state = { ...state, base: z, from, moved: {}, seed: seed ?? state.seed };
  if (seed !== undefined) $('seed').value = seed;
  return commit(`The current face is ${from}.`);
}
function becomeSeed(seed) {
  const big = BigInt.asUintN(64, BigInt(seed));
  return become(latent.ofSeed(big, model.latent), `seed ${big}`, String(big));
}

// ---- Faces that can be pressed, dragged and calculated with ---------------------------------------------------------

let dragged = null;
function tile(face) {
  const item = document.createElement('li');
  // Firefox drags no <button>.
  const button = document.createElement('div');
  button.setAttribute('role', 'button');
  button.tabIndex = 0;
  button.className = 'tile';
  button.draggable = true;
  button.title = face.label;
  button.setAttribute('aria-keyshortcuts', 'A B C');
  const canvas = document.createElement('canvas');
  if (face.picture) paint(canvas, face.picture);
  const text = document.createElement('span');
  text.textContent = face.label;
  button.append(canvas, text);
  button.addEventListener('click', face.use);
  button.addEventListener('dragstart', (event) => {
    dragged = face;
    event.dataTransfer.setData('text/plain', face.label);
    event.dataTransfer.effectAllowed = 'copy';
  });
  button.addEventListener('dragend', () => { dragged = null; });
  button.addEventListener('keydown', (event) => {
    const place = event.key.toUpperCase();
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      face.use();
    } else if (place in places && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      put(place, face);
    }
  });
  item.append(button);
  return item;
}

async function drawGallery() {
  const seeds = Array.from({ length: 12 }, () => String(Math.floor(Math.random() * 1e6)));
  const vectors = seeds.map((seed) => latent.ofSeed(seed, model.latent));
  try {
    const pictures = await engine.render(vectors);
    $('gallery').querySelectorAll('li:not(.saved)').forEach((item) => item.remove());
    seeds.forEach((seed, i) => {
      const face = { z: vectors[i], label: `seed ${seed}`, picture: pictures[i], use: () => becomeSeed(seed) };
      $('gallery').append(tile(face));
    });
  } catch (error) {
    complain(error);
  }
}

function keepFace(z, text, picture) {
  const face = { z, label: text, picture, use: () => become(z, text) };
  const item = tile(face);
  item.classList.add('saved');
  $('gallery').prepend(item);
}

function drawHistory() {
  const items = history.map((entry, i) => {
    const z = () => {
      const now = state;
      state = entry.state;
      const there = current();
      state = now;
      return there;
    };
    const item = tile({ get z() { return z(); }, label: entry.label, picture: entry.picture, use: () => go(i) });
    if (i === position) item.firstChild.setAttribute('aria-current', 'true');
    return item;
  });
  // What had the focus keeps it.
  const focused = [...$('history').children].findIndex((item) => item.contains(document.activeElement));
  $('history').replaceChildren(...items);
  if (focused >= 0 && items[focused]) items[focused].firstChild.focus();
  const last = items[position];
  if (last) $('history').scrollLeft = last.offsetLeft - $('history').offsetLeft - $('history').clientWidth / 2;
  $('undo').disabled = position <= 0;
  $('redo').disabled = position >= history.length - 1;
  $('caption').textContent = history[position] ? history[position].label : '';
}

// ---- Arithmetic -----------------------------------------------------------------------------------------------------

function fill(id, face, name) {
  const place = $(id);
  place.classList.toggle('filled', Boolean(face));
  place.lastElementChild.textContent = face && face.label ? `${name}: ${face.label}` : name;
  const canvas = place.firstElementChild;
  if (face && face.picture) paint(canvas, face.picture);
  else canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
}

async function put(name, face) {
  places[name] = face && { z: face.z, label: face.label, picture: face.picture };
  fill(`place-${name}`, places[name], name);
  const { A, B, C } = places;
  result = null;
  if (A && B && C) {
    const z = A.z.map((value, i) => value - B.z[i] + C.z[i]);
    try {
      const [picture] = await engine.render([z]);
      result = { z, picture, label: `(${A.label}) − (${B.label}) + (${C.label})` };
    } catch (error) {
      complain(error);
    }
  }
  fill('result', result && { picture: result.picture }, result ? 'Make current' : 'Result');
  $('result').disabled = !result;
  if (face) say(result ? `${face.label} is ${name}. The result is there.` : `${face.label} is ${name}.`);
}

function setUpArithmetic() {
  for (const name of Object.keys(places)) {
    const place = $(`place-${name}`);
    place.addEventListener('click', () => shownFace && put(name, { ...shownFace, label: label() }));
    place.addEventListener('dragover', (event) => {
      if (!dragged) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = 'copy';
      place.classList.add('over');
    });
    place.addEventListener('dragleave', () => place.classList.remove('over'));
    place.addEventListener('drop', (event) => {
      place.classList.remove('over');
      if (!dragged) return;
      event.preventDefault();
      put(name, dragged);
    });
  }
  $('result').addEventListener('click', () => result && become(result.z, result.label));
  $('clear').addEventListener('click', () => {
    Object.keys(places).forEach((name) => put(name, null));
    say('The places are empty.');
  });
  fill('result', null, 'Result');
}

// ---- Sliders --------------------------------------------------------------------------------------------------------

const sliders = [];
function slider(name, text) {
  const row = document.createElement('div');
  row.className = 'slider';
  const id = `slider-${name}`;
  const caption = document.createElement('label');
  caption.htmlFor = id;
  caption.textContent = text;
  caption.title = text;
  const small = document.createElement('small');
  caption.append(small);
  const input = document.createElement('input');
  Object.assign(input, { type: 'range', id, min: -4, max: 4, step: 0.05, value: 0 });
  const output = document.createElement('output');
  output.htmlFor = id;
  const reset = document.createElement('button');
  reset.type = 'button';
  reset.textContent = '↺';
  reset.setAttribute('aria-label', `Reset ${text}`);
  row.append(caption, input, output, reset);
  const direction = directions.get(name);
  const entry = {
    update(z) {
      const value = state.moved[name] || 0;
      input.value = value;
      output.textContent = signed(value);
      reset.disabled = value === 0;
      let spoken = signed(value);
      if (direction && direction.boundary) {
        const { slope, offset } = direction.boundary;
        const share = 1 / (1 + Math.exp(-slope * (latent.dot(z, direction.vector) + offset)));
        small.textContent = `likely ${Math.round(100 * share)} %`;
        spoken += `, likely ${Math.round(100 * share)} percent`;
      }
      input.setAttribute('aria-valuetext', spoken);
    },
  };
  input.addEventListener('input', (event) => {
    state.moved[name] = Number(input.value);
    show(event.timeStamp);
  });
  input.addEventListener('change', () => commit(`${text} ${signed(Number(input.value))}.`));
  reset.addEventListener('click', () => {
    delete state.moved[name];
    input.focus();
    commit(`${text} is reset.`);
  });
  sliders.push(entry);
  return row;
}

function updateSliders() {
  const z = current();
  sliders.forEach((entry) => entry.update(z));
  $('reset').disabled = Object.values(state.moved).every((value) => value === 0);
  $('keep').checked = state.keep;
}

function section(name, note, rows, open) {
  if (rows.length === 0) return;
  const details = document.createElement('details');
  details.open = open;
  const summary = document.createElement('summary');
  summary.textContent = name;
  const small = document.createElement('small');
  small.textContent = note;
  summary.append(small);
  const scroll = document.createElement('div');
  scroll.className = 'scroll';
  scroll.append(...rows);
  details.append(summary, scroll);
  $('sliders').append(details);
}

function setUpSliders() {
  model.directions.forEach((direction) => directions.set(direction.name, direction));
  const fitted = model.directions.filter((direction) => direction.boundary);
  const found = model.directions.filter((direction) => !direction.boundary);
  const rows = (list) => list.map(({ name }) => slider(name, title(name)));
  const component = (i) => slider(`z${i}`, `z ${i}`);
  section('Attributes', `${fitted.length}, learnt`, rows(fitted), true);
  section('Found directions', `${found.length}, without labels`, rows(found), fitted.length === 0);
  const bare = model.directions.length === 0;
  section('Strongest components', 'single numbers of z', model.strongest.slice(0, 12).map(component), bare);
  const rest = model.strongest.slice(12).sort((a, b) => a - b);
  section('All other components', `${rest.length}`, rest.map(component), false);
  $('keep-label').hidden = fitted.length < 2;
  $('keep').addEventListener('change', () => {
    state.keep = $('keep').checked;
    commit(state.keep ? 'The other attributes are kept fixed.' : 'The other attributes may change too.');
  });
  $('reset').addEventListener('click', () => {
    state.moved = {};
    commit('All sliders are reset.');
  });
}

// ---- Files ----------------------------------------------------------------------------------------------------------

function download(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${name} is downloaded.`);
}
const fileName = () => state.from.replace(/[^A-Za-z0-9]+/g, '-').replace(/^-|-$/g, '').slice(0, 40) || 'face';

async function openFile(file) {
  if (!file) return;
  if (/\.safetensors$/i.test(file.name)) {
    if (file.size > 1 << 28) throw new Error(`${file.name}: it is too large`);
    let read;
    try {
      read = latent.fromFile(await file.arrayBuffer(), model.latent);
    } catch (error) {
      throw new Error(`${file.name}: ${error.message}`);
    }
    if (read.generator && read.generator !== model.identity) {
      throw new Error(`${file.name} was made for another generator`);
    }
    const pictures = await engine.render(read.vectors);
    read.vectors.slice(1).forEach((z, i) => keepFace(z, `${file.name} ${i + 2}`, pictures[i + 1]));
    await become(read.vectors[0], file.name);
    if (read.more) say(`${file.name}: its vectors alone; what it adds between the blocks is left out here.`);
    return;
  }
  if (!engine.invert) throw new Error('A shared page takes vector files; photographs need dcgan-cuda explore.');
  await invert(file);
}

let inverting = false;
async function invert(file) {
  if (inverting) throw new Error('A photograph is being found already.');
  inverting = true;
  try {
    let photograph;
    try {
      photograph = await createImageBitmap(file);
    } catch {
      throw new Error(`${file.name} is neither a picture that this browser reads nor a .safetensors file`);
    }
    const rgb = square(photograph);
    $('inverting').hidden = false;
    $('progress').value = 0;
    $('inverting-text').textContent = `Finding ${file.name}…`;
    say(`Finding ${file.name}. The page can be used meanwhile.`);
    const { z, psnr } = await engine.invert(rgb, (step, of) => { $('progress').value = step / of; });
    $('progress').value = 1;
    $('inverting-text').textContent = `${file.name}, and the nearest face that was found (${psnr.toFixed(1)} dB)`;
    const [picture] = await engine.render([z]);
    keepFace(z, file.name, picture);
    await become(z, file.name);
    say(`${file.name} was found, at ${psnr.toFixed(1)} dB. It is the current face.`);
  } catch (error) {
    $('inverting').hidden = true;
    throw error;
  } finally {
    inverting = false;
  }
}

// The middle of a picture at the generator's size, RGB; it is shown too.
function square(photograph) {
  let side = Math.min(photograph.width, photograph.height);
  let x = (photograph.width - side) / 2;
  let y = (photograph.height - side) / 2;
  let from = photograph;
  const draw = (size) => {
    const canvas = document.createElement('canvas');
    canvas.width = size;
    canvas.height = size;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.imageSmoothingQuality = 'high';
    context.drawImage(from, x, y, side, side, 0, 0, size, size);
    [from, x, y, side] = [canvas, 0, 0, size];
    return context;
  };
  // By halves: browsers leave pixels out where they shrink further at once.
  while (side >= 4 * model.size) draw(Math.floor(side / 2));
  const { data } = draw(model.size).getImageData(0, 0, model.size, model.size);
  paint($('photograph'), data);
  const rgb = new Uint8Array(model.size * model.size * 3);
  for (let i = 0; i < model.size * model.size; i++) {
    for (let c = 0; c < 3; c++) rgb[3 * i + c] = data[4 * i + c];
  }
  return rgb;
}

function setUpFiles() {
  $('image').addEventListener('click', () => {
    $('face').toBlob((blob) => download(blob, `${fileName()}.png`), 'image/png');
  });
  $('vector').addEventListener('click', () => {
    const bytes = latent.toFile(current(), model.identity, `explore: ${label()}`.replace(/[^\x20-\x7e]/g, '-'));
    download(new Blob([bytes], { type: 'application/octet-stream' }), `${fileName()}.safetensors`);
  });
  $('save').addEventListener('click', () => {
    if (!shownFace) return;
    saved += 1;
    keepFace(shownFace.z, `kept ${saved}: ${label()}`, shownFace.picture);
    say('The face is kept among the faces below.');
  });
  $('open').addEventListener('click', () => $('file').click());
  $('file').addEventListener('change', () => {
    openFile($('file').files[0]).catch(complain);
    $('file').value = '';
  });
  let depth = 0;
  const withFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes('Files');
  const over = (on) => $('frame').classList.toggle('over', on);
  document.addEventListener('dragenter', (event) => { if (withFiles(event)) { depth += 1; over(true); } });
  document.addEventListener('dragleave', (event) => { if (withFiles(event)) { depth -= 1; over(depth > 0); } });
  document.addEventListener('dragover', (event) => { if (withFiles(event)) event.preventDefault(); });
  document.addEventListener('drop', (event) => {
    depth = 0;
    over(false);
    if (!withFiles(event)) return;
    event.preventDefault();
    openFile(event.dataTransfer.files[0]).catch(complain);
  });
}

function setUpSeeds() {
  const step = (by) => () => becomeSeed(BigInt.asUintN(64, BigInt(state.seed) + BigInt(by)));
  $('previous').addEventListener('click', step(-1));
  $('next').addEventListener('click', step(1));
  $('random').addEventListener('click', () => becomeSeed(Math.floor(Math.random() * 1e6)));
  $('seed').addEventListener('change', () => {
    const typed = $('seed').value.trim();
    if (/^\d{1,20}$/.test(typed) && BigInt(typed) < 1n << 64n) {
      becomeSeed(typed);
    } else {
      $('seed').value = state.seed;
      say('A seed is a whole number from 0 to 18446744073709551615.', true);
    }
  });
  $('undo').addEventListener('click', () => go(position - 1));
  $('redo').addEventListener('click', () => go(position + 1));
  document.addEventListener('keydown', (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey || event.target.id === 'seed') return;
    const key = event.key.toLowerCase();
    if (key === 'z') go(position + (event.shiftKey ? 1 : -1));
    else if (key === 'y') go(position + 1);
    else return;
    event.preventDefault();
  });
}

async function begin() {
  try {
    if ($('model')) {
      model = JSON.parse($('model').textContent);
      engine = localEngine(model);
      $('drop-hint').textContent = 'Drop a vector file';
      $('file').accept = '.safetensors';
    } else {
      const answer = await fetch('model.json');
      if (!answer.ok) throw await failed(answer);
      model = await answer.json();
      engine = serverEngine(model);
    }
    $('facts').textContent = `A generator draws each face from ${model.latent} numbers, at ${model.size} × ${model.size} `
      + 'pixels. Move them, and it becomes another.';
    state = { base: latent.ofSeed(0, model.latent), from: 'seed 0', seed: '0', moved: {}, keep: false };
    setUpSeeds();
    setUpSliders();
    setUpArithmetic();
    setUpFiles();
    $('more').addEventListener('click', drawGallery);
    await becomeSeed(0);
    say('');
    await drawGallery();
    document.documentElement.dataset.ready = 'true';
  } catch (error) {
    complain(error);
  }
}
begin();
