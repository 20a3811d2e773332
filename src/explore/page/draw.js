// Drawing for a generator of edges. The server makes the image of what is drawn; nothing else is kept there.
'use strict';
const $ = (id) => document.getElementById(id);
const SIDE = 512;
const WIDTHS = { pen: 3, eraser: 28 };
const MOST_STEPS = 40;

const paper = $('drawing').getContext('2d', { willReadFrequently: true });
const output = $('image').getContext('2d');
let tool = 'pen';
let size = 64;
let past = [];
let future = [];
let last = null;
let drawer = null;
let dirty = false;
let busy = false;

const say = (text, wrong = false) => {
  $('status').textContent = text;
  $('status').classList.toggle('wrong', wrong);
};
const whole = () => paper.getImageData(0, 0, SIDE, SIDE);
const blank = () => {
  paper.fillStyle = '#fff';
  paper.fillRect(0, 0, SIDE, SIDE);
};

function buttons(drawn) {
  $('undo').disabled = past.length === 0;
  $('redo').disabled = future.length === 0;
  if (drawn !== undefined) for (const id of ['save', 'save-drawing']) $(id).disabled = !drawn;
}

// What is there now can be come back to.
function remember() {
  past.push(whole());
  if (past.length > MOST_STEPS) past.shift();
  future = [];
  buttons();
}

function step(from, to) {
  if (from.length === 0) return;
  to.push(whole());
  paper.putImageData(from.pop(), 0, 0);
  buttons();
  changed();
}

function choose(name) {
  tool = name;
  for (const id of ['pen', 'eraser']) $(id).setAttribute('aria-pressed', String(id === name));
}

// Has the image made, of what is there when the one before is done.
async function changed() {
  dirty = true;
  if (busy) return;
  busy = true;
  while (dirty) {
    dirty = false;
    const { data } = whole();
    const grey = new Uint8Array(SIDE * SIDE);
    let darkest = 255;
    for (let i = 0; i < grey.length; i += 1) {
      grey[i] = data[4 * i];
      if (grey[i] < darkest) darkest = grey[i];
    }
    if (darkest > 200) {
      output.clearRect(0, 0, size, size);
      buttons(false);
      say('');
      continue;
    }
    try {
      const answer = await fetch('image', { method: 'POST', body: grey });
      if (!answer.ok) throw new Error(await answer.text());
      const pixels = new Uint8ClampedArray(await answer.arrayBuffer());
      output.putImageData(new ImageData(pixels, size, size), 0, 0);
      buttons(true);
      say('');
    } catch (error) {
      say(error instanceof TypeError ? 'The program has ended: start it again.' : error.message, true);
    }
  }
  busy = false;
}

const place = (event) => {
  const box = $('drawing').getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE];
};

function line(from, to) {
  paper.strokeStyle = tool === 'pen' ? '#000' : '#fff';
  paper.lineWidth = WIDTHS[tool];
  paper.lineCap = 'round';
  paper.lineJoin = 'round';
  paper.beginPath();
  paper.moveTo(...from);
  paper.lineTo(to[0] + 0.01, to[1]);
  paper.stroke();
}

$('drawing').addEventListener('pointerdown', (event) => {
  // A second finger, or the hand beside a pen, draws nothing.
  if (event.button !== 0 || drawer !== null) return;
  event.preventDefault();
  drawer = event.pointerId;
  $('drawing').setPointerCapture(event.pointerId);
  remember();
  last = place(event);
  line(last, last);
  changed();
});
$('drawing').addEventListener('pointermove', (event) => {
  if (event.pointerId !== drawer) return;
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const one of events.length ? events : [event]) {
    const to = place(one);
    line(last, to);
    last = to;
  }
  changed();
});
for (const type of ['pointerup', 'pointercancel']) {
  $('drawing').addEventListener(type, (event) => { if (event.pointerId === drawer) drawer = null; });
}

// The edges of a photograph, which take the place of the drawing.
async function photograph(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    say(`${file.name} is no picture that this browser reads.`, true);
    return;
  }
  const small = new OffscreenCanvas(size, size).getContext('2d');
  const side = Math.min(picture.width, picture.height);
  small.fillStyle = '#fff';
  small.fillRect(0, 0, size, size);
  small.imageSmoothingQuality = 'high';
  small.drawImage(picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, size, size);
  const { data } = small.getImageData(0, 0, size, size);
  const rgb = new Uint8Array(3 * size * size);
  for (let i = 0; i < size * size; i += 1) for (let c = 0; c < 3; c += 1) rgb[3 * i + c] = data[4 * i + c];
  try {
    const answer = await fetch('edges', { method: 'POST', body: rgb });
    if (!answer.ok) throw new Error(await answer.text());
    const lines = new Uint8Array(await answer.arrayBuffer());
    remember();
    blank();
    paper.fillStyle = '#000';
    const cell = SIDE / size;
    for (let i = 0; i < lines.length; i += 1) {
      if (lines[i] === 0) paper.fillRect((i % size) * cell, Math.floor(i / size) * cell, cell, cell);
    }
    if (!lines.includes(0)) say('This photograph has no edges.', true);
    changed();
  } catch (error) {
    say(error instanceof TypeError ? 'The program has ended: start it again.' : error.message, true);
  }
}

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

$('pen').addEventListener('click', () => choose('pen'));
$('eraser').addEventListener('click', () => choose('eraser'));
$('undo').addEventListener('click', () => step(past, future));
$('redo').addEventListener('click', () => step(future, past));
$('clear').addEventListener('click', () => {
  remember();
  blank();
  changed();
});
$('open').addEventListener('click', () => $('file').click());
$('file').addEventListener('change', () => {
  if ($('file').files[0]) photograph($('file').files[0]);
  $('file').value = '';
});
$('save').addEventListener('click', () => save($('image'), 'image.png'));
$('save-drawing').addEventListener('click', () => save($('drawing'), 'drawing.png'));
document.addEventListener('keydown', (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== 'z') return;
  event.preventDefault();
  if (event.shiftKey) step(future, past); else step(past, future);
});
for (const type of ['dragenter', 'dragover']) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $('frame').classList.add('over');
  });
}
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) $('frame').classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  $('frame').classList.remove('over');
  if (event.dataTransfer.files[0]) photograph(event.dataTransfer.files[0]);
});

(async () => {
  blank();
  try {
    const model = await (await fetch('model.json')).json();
    size = model.size;
    $('image').width = size;
    $('image').height = size;
    $('facts').textContent = `Images of ${size}×${size} pixels, made of your lines as you draw.`;
  } catch {
    say('The program has ended: start it again.', true);
  }
  document.documentElement.dataset.ready = '';
})();
