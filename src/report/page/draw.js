// What charts are made of: scales, ticks, paths, numbers as text. Knows nothing of the page.
'use strict';

const draw = (() => {
  // A number for people, of four digits.
  function number(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return '–';
    const size = Math.abs(value);
    if (size === 0) return '0';
    if (size >= 1e7 || size < 1e-3) {
      return value
        .toExponential(3)
        .replace(/\.?0*e/, 'e')
        .replace('e+', 'e')
        .replace('-', '−')
        .replace('e-', 'e−');
    }
    const digits = size >= 1000 ? 0 : Math.max(0, 3 - Math.floor(Math.log10(size)));
    const text = value.toLocaleString('en', { maximumFractionDigits: Math.min(digits, 6) });
    return text.replace('-', '−');
  }

  const whole = (value) => Math.round(value).toLocaleString('en');

  // Round numbers from `low` to `high`, about `count` of them.
  function ticks(low, high, count) {
    if (!(high > low)) return [low];
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  // Powers of ten, or what lies between them where there are few.
  function logTicks(low, high) {
    const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    const within = (factors, every) => {
      const found = [];
      for (let power = first; power <= last; power += every) {
        for (const factor of factors) {
          const value = factor * 10 ** power;
          if (value >= low * 0.9999 && value <= high * 1.0001) found.push(value);
        }
      }
      return found;
    };
    const tens = within([1], Math.max(1, Math.ceil((last - first) / 6)));
    if (tens.length >= 3) return tens;
    const more = within([1, 2, 5], 1);
    return more.length >= 2 ? more : ticks(low, high, 4);
  }

  // Numbers from `low` to `high` to pixels from `from` to `to`.
  function scale(low, high, from, to, log = false) {
    const f = log ? Math.log10 : (value) => value;
    const [a, b] = [f(low), f(high)];
    const each = b > a ? (to - from) / (b - a) : 0;
    return (value) => (b > a ? from + (f(value) - a) * each : (from + to) / 2);
  }

  // The range of what is drawn, with some room; null where there is nothing.
  function extent(lists, { log = false, fixed = null, include = [] } = {}) {
    if (fixed) return fixed;
    let [low, high] = [Infinity, -Infinity];
    const see = (value) => {
      if (value === null || value === undefined || !Number.isFinite(value) || (log && value <= 0)) return;
      if (value < low) low = value;
      if (value > high) high = value;
    };
    for (const list of lists) list.forEach(see);
    if (low > high) return null;
    include.forEach(see);
    if (log) return low === high ? [low / 2, high * 2] : [low / 1.15, high * 1.15];
    if (low === high) {
      const room = Math.abs(low) / 10 || 1;
      return [low - room, high + room];
    }
    const room = (high - low) * 0.06;
    // Zero is a natural end.
    return [low >= 0 && low <= (high - low) * 0.6 ? 0 : low - room, high + room];
  }

  // The index of the number next to `value` in `list`, which ascends; −1 where it is empty.
  function nearest(list, value) {
    if (!list.length) return -1;
    let [low, high] = [0, list.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] < value) low = middle + 1;
      else high = middle;
    }
    return low > 0 && value - list[low - 1] <= list[low] - value ? low - 1 : low;
  }

  // `y` at `x` on the line through (xs, ys), which ascends; from (0, 0), and no farther than its end.
  function between(xs, ys, x) {
    if (!xs.length) return x;
    let at = nearest(xs, x);
    if (xs[at] < x && at < xs.length - 1) at += 1;
    const [x0, y0] = at > 0 ? [xs[at - 1], ys[at - 1]] : [0, 0];
    return xs[at] > x0 && x < xs[at] ? y0 + ((x - x0) * (ys[at] - y0)) / (xs[at] - x0) : ys[at];
  }

  // An exponential average, unbiased at the beginning; gaps stay gaps.
  function smooth(values, weight) {
    let [sum, weights] = [0, 0];
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + value;
      weights = weight * weights + 1;
      return sum / weights;
    });
  }

  // A path through the points; what is null, or has no logarithm, is a gap, and a point between gaps a short line.
  function path(xs, ys, x, y, log = false) {
    let [text, pen] = ['', false];
    const there = (i) => i >= 0 && i < ys.length && ys[i] !== null && !(log && ys[i] <= 0);
    for (let i = 0; i < xs.length; i++) {
      if (!there(i)) {
        pen = false;
        continue;
      }
      const [px, py] = [x(xs[i]).toFixed(1), y(ys[i]).toFixed(1)];
      text += `${pen ? 'L' : 'M'}${px} ${py}`;
      if (!pen && !there(i + 1)) text += 'h0.1';
      pen = true;
    }
    return text;
  }

  // The area between two lists, a closed path for each stretch without gaps.
  function band(xs, lows, highs, x, y, log = false) {
    let text = '';
    let stretch = [];
    const close = () => {
      if (stretch.length > 1) {
        const point = (i, list) => `${x(xs[i]).toFixed(1)} ${y(list[i]).toFixed(1)}`;
        text += `M${stretch.map((i) => point(i, highs)).join('L')}L${stretch
          .reverse()
          .map((i) => point(i, lows))
          .join('L')}Z`;
      }
      stretch = [];
    };
    for (let i = 0; i < xs.length; i++) {
      if (lows[i] === null || highs[i] === null || (log && lows[i] <= 0)) close();
      else stretch.push(i);
    }
    close();
    return text;
  }

  return { number, whole, ticks, logTicks, scale, extent, nearest, between, smooth, path, band };
})();

if (typeof module !== 'undefined') module.exports = draw;
