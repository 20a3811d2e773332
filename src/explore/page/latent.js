// What the page computes itself: noise of seeds, sums of vectors, their files, and, in a shared file, the generator.
'use strict';

const latent = {
  // The vector of a seed, as `dcgan-cuda sample --seed` draws its first: Philox4x32-10 (Salmon et al. 2011) and
  // Box-Muller; counter (block, 0, 0, purpose 7), key the seed.
  ofSeed(seed, length) {
    const big = BigInt(seed);
    const key = [Number(big & 0xffffffffn), Number((big >> 32n) & 0xffffffffn)];
    const z = new Float32Array(length);
    for (let block = 0; 4 * block < length; block++) {
      const words = latent.philox([block, 0, 0, 7], key);
      for (let pair = 0; pair < 2; pair++) {
        const unit = (word) => ((word >>> 8) + 0.5) / 16777216;
        const radius = Math.sqrt(-2 * Math.log(unit(words[2 * pair])));
        const angle = 2 * Math.PI * unit(words[2 * pair + 1]);
        const at = 4 * block + 2 * pair;
        if (at < length) z[at] = radius * Math.cos(angle);
        if (at + 1 < length) z[at + 1] = radius * Math.sin(angle);
      }
    }
    return z;
  },

  philox(counter, key) {
    let [a, b, c, d] = counter;
    let [k, l] = key;
    // High and low word of a product of two words.
    const product = (x, y) => {
      const all = BigInt(x) * BigInt(y);
      return [Number(all >> 32n), Number(all & 0xffffffffn)];
    };
    for (let round = 0; round < 10; round++) {
      const [high0, low0] = product(0xd2511f53, a);
      const [high1, low1] = product(0xcd9e8d57, c);
      [a, b, c, d] = [(high1 ^ b ^ k) >>> 0, low1, (high0 ^ d ^ l) >>> 0, low0];
      k = (k + 0x9e3779b9) >>> 0;
      l = (l + 0xbb67ae85) >>> 0;
    }
    return [a, b, c, d];
  },

  dot: (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0),

  // Of `vector`, what is orthogonal to all of `others`, made of length 1 again; `null` where nothing is left.
  without(vector, others) {
    const basis = [];
    const removed = (from) => {
      const left = Float64Array.from(from);
      // Twice, since the first leaves rounding errors.
      for (let pass = 0; pass < 2; pass++) {
        for (const unit of basis) {
          const along = latent.dot(left, unit);
          left.forEach((value, i) => { left[i] = value - along * unit[i]; });
        }
      }
      return left;
    };
    const unit = (left) => {
      const length = Math.sqrt(latent.dot(left, left));
      return length > 1e-3 ? left.map((value) => value / length) : null;
    };
    for (const other of others) {
      const left = unit(removed(other));
      if (left) basis.push(left);
    }
    return unit(removed(vector));
  },

  // The bytes of a safetensors file with one vector.
  toFile(z, generator, madeBy) {
    const header = {
      __metadata__: { generator, made_by: madeBy },
      z: { dtype: 'F32', shape: [1, z.length], data_offsets: [0, 4 * z.length] },
    };
    let text = JSON.stringify(header);
    text += ' '.repeat((8 - (text.length % 8)) % 8);
    const bytes = new Uint8Array(8 + text.length + 4 * z.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, text.length, true);
    bytes.set(new TextEncoder().encode(text), 8);
    z.forEach((value, i) => view.setFloat32(8 + text.length + 4 * i, value, true));
    return bytes;
  },

  // The vectors of a safetensors file, and whether it has more than them.
  fromFile(buffer, length) {
    const view = new DataView(buffer);
    const head = buffer.byteLength >= 8 ? view.getUint32(0, true) : 0;
    if (head < 2 || 8 + head > buffer.byteLength || view.getUint32(4, true) !== 0) {
      throw new Error('this is not a safetensors file');
    }
    let header;
    try {
      header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, head)));
    } catch {
      throw new Error('this is not a safetensors file');
    }
    const tensor = header.z;
    if (!tensor || tensor.dtype !== 'F32' || !Array.isArray(tensor.shape)) {
      throw new Error('it has no tensor z of 32-bit floats');
    }
    const [rows, columns] = tensor.shape;
    const [begin, end] = tensor.data_offsets;
    if (tensor.shape.length !== 2 || columns !== length || end - begin !== 4 * rows * columns
      || 8 + head + end > buffer.byteLength || rows < 1) {
      throw new Error(`its vectors are not those of this generator, which takes ${length} numbers`);
    }
    const vectors = [];
    for (let row = 0; row < Math.min(rows, 24); row++) {
      const z = new Float32Array(length);
      for (let i = 0; i < length; i++) z[i] = view.getFloat32(8 + head + begin + 4 * (row * length + i), true);
      if (!z.every((value) => Number.isFinite(value) && Math.abs(value) < 1e4)) {
        throw new Error('it holds numbers that are not finite');
      }
      vectors.push(z);
    }
    return {
      vectors,
      generator: (header.__metadata__ || {}).generator,
      more: Object.keys(header).some((name) => name.startsWith('stages/')),
    };
  },

  // A generator of `blocks` with the bytes of their filters, [r][s][in][out] each: a function from z to RGBA.
  generator(blocks, bytes, half) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const fromHalf = (bits) => {
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 0) return sign * fraction * 2 ** -24;
      return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
    };
    let at = 0;
    const layers = blocks.map((block) => {
      const filter = new Float32Array((block.same ? 9 : 16) * block.from * block.to);
      for (let i = 0; i < filter.length; i++) {
        filter[i] = half ? fromHalf(view.getUint16(at, true)) : view.getFloat32(at, true);
        at += half ? 2 : 4;
      }
      return { ...block, filter };
    });
    // sum[to] += input[from]·filter[tap][from][to]. Half of the inputs are 0 behind a ReLU.
    const multiply = (input, offset, from, to, filter, tap, sum) => {
      const base = tap * from * to;
      for (let i = 0; i < from; i++) {
        const x = input[offset + i];
        if (x === 0) continue;
        const row = base + i * to;
        for (let o = 0; o < to; o++) sum[o] += x * filter[row + o];
      }
    };
    // Output row 2y takes input rows y and y−1 by filter rows 1 and 3; 2y+1 takes y+1 and y by 0 and 2.
    const reach = [[[0, 1], [-1, 3]], [[1, 0], [0, 2]]];
    // Where the map keeps its size, row y takes y−1, y and y+1 by 0, 1 and 2.
    const around = [[-1, 0], [0, 1], [1, 2]];
    const run = (layer, input) => {
      const { from, to, filter, scale, shift } = layer;
      const side = layer.expand ? 4 : layer.same ? layer.side : 2 * layer.side;
      const across = layer.same ? 3 : 4;
      const output = new Float32Array(side * side * to);
      const sum = new Float32Array(to);
      for (let y = 0; y < side; y++) {
        for (let x = 0; x < side; x++) {
          sum.fill(0);
          if (layer.expand) {
            multiply(input, 0, from, to, filter, 4 * y + x, sum);
          } else {
            for (const [dy, ky] of layer.same ? around : reach[y & 1]) {
              const iy = (layer.same ? y : y >> 1) + dy;
              if (iy < 0 || iy >= layer.side) continue;
              for (const [dx, kx] of layer.same ? around : reach[x & 1]) {
                const ix = (layer.same ? x : x >> 1) + dx;
                if (ix < 0 || ix >= layer.side) continue;
                multiply(input, (iy * layer.side + ix) * from, from, to, filter, across * ky + kx, sum);
              }
            }
          }
          const out = (y * side + x) * to;
          for (let o = 0; o < to; o++) {
            const value = sum[o] * scale[o] + shift[o];
            output[out + o] = layer.tanh ? Math.tanh(value) : Math.max(0, value);
          }
        }
      }
      return output;
    };
    return (z) => {
      // What the generator is told with every z stands behind it.
      const told = layers[0].told || [];
      const image = layers.reduce((map, layer) => run(layer, map), told.length ? Float32Array.of(...z, ...told) : z);
      const channels = layers[layers.length - 1].to;
      const rgba = new Uint8ClampedArray((image.length / channels) * 4);
      for (let pixel = 0; 4 * pixel < rgba.length; pixel++) {
        for (let c = 0; c < 3; c++) {
          rgba[4 * pixel + c] = Math.round((image[pixel * channels + (c % channels)] + 1) * 127.5);
        }
        rgba[4 * pixel + 3] = 255;
      }
      return rgba;
    };
  },
};
