"use strict";

// The forward pass of the model with a cache of keys and values: `gpt_core.reference` for the last few tokens at a time.
//
// Shapes: C channels, H heads, D = C / H, F hidden size, T context length, V vocabulary, N tokens read at once.

const EPSILON = 1e-5; // of the layer norms
const GELU_SCALE = Math.sqrt(2 / Math.PI);
const GELU_CUBE = 0.044715;
const MAX_ROWS = 8; // N: a weight that is in the processor's cache is used for this many tokens

class Transformer {
  /** Create a model from its shape and its tensors: a Float32Array by name. */
  constructor(shape, tensors) {
    this.shape = shape;
    this.tensors = tensors;
    this.length = 0; // positions in the cache
    const { d_model: C, hidden_size: F, seq_len: T, layers, vocab_size: V } = shape;
    const rows = (width) => new Float32Array(MAX_ROWS * width);
    this.x = rows(C);
    this.normed = rows(C);
    this.qkv = rows(3 * C);
    this.attended = rows(C);
    this.hidden = rows(F);
    this.scores = new Float32Array(T);
    this.caches = Array.from({ length: layers }, () => ({
      keys: new Float32Array(T * C),
      values: new Float32Array(T * C),
    }));
    this.logits = new Float32Array(V);
  }

  /** Append at most MAX_ROWS tokens to the cache. */
  append(ids) {
    const { layers } = this.shape;
    this.embed(ids);
    for (let layer = 0; layer < layers; layer++) {
      this.attentionBlock(`h.${layer}`, this.caches[layer], ids.length);
      this.mlpBlock(`h.${layer}`, ids.length);
    }
    this.length += ids.length;
    this.lastRow = ids.length - 1;
  }

  /** Return the logits (V,) that follow the last token: ln_f(x) wteᵀ. The array is reused. */
  lastLogits() {
    const { d_model: C, vocab_size: V } = this.shape;
    const last = this.x.subarray(this.lastRow * C, (this.lastRow + 1) * C);
    this.norm(this.normed, last, "ln_f", 1);
    dotRows(this.logits, this.normed, this.tensors["wte.weight"], 0, C, V, C);
    return this.logits;
  }

  /** x = token embedding + position embedding. */
  embed(ids) {
    const C = this.shape.d_model;
    const tokens = this.tensors["wte.weight"];
    const positions = this.tensors["wpe.weight"];
    ids.forEach((id, row) => {
      const position = (this.length + row) * C;
      for (let c = 0; c < C; c++) this.x[row * C + c] = tokens[id * C + c] + positions[position + c];
    });
  }

  /** x += softmax(q kᵀ / sqrt(D)) v W_proj + b_proj, with q, k and v of ln_1(x). */
  attentionBlock(name, cache, rows) {
    const C = this.shape.d_model;
    this.norm(this.normed, this.x, `${name}.ln_1`, rows);
    this.linear(this.qkv, this.normed, `${name}.attn.c_attn`, rows, C, 3 * C, false);
    for (let row = 0; row < rows; row++) {
      const at = row * 3 * C;
      cache.keys.set(this.qkv.subarray(at + C, at + 2 * C), (this.length + row) * C);
      cache.values.set(this.qkv.subarray(at + 2 * C, at + 3 * C), (this.length + row) * C);
      this.attend(cache, row);
    }
    this.linear(this.x, this.attended, `${name}.attn.c_proj`, rows, C, C, true);
  }

  /** Attention of one token to itself and the earlier ones, head by head. */
  attend({ keys, values }, row) {
    const { d_model: C, num_heads: H } = this.shape;
    const D = C / H;
    const seen = this.length + row + 1;
    const scale = 1 / Math.sqrt(D);
    const scores = this.scores;
    this.attended.fill(0, row * C, (row + 1) * C);
    for (let head = 0; head < H; head++) {
      const query = this.qkv.subarray(row * 3 * C + head * D, row * 3 * C + (head + 1) * D);
      dotRows(scores, query, keys, head * D, C, seen, D);
      let largest = -Infinity;
      for (let j = 0; j < seen; j++) largest = Math.max(largest, scores[j]);
      let total = 0;
      for (let j = 0; j < seen; j++) {
        scores[j] = Math.exp((scores[j] - largest) * scale);
        total += scores[j];
      }
      for (let j = 0; j < seen; j++) scores[j] /= total;
      addRows(this.attended, row * C + head * D, scores, 0, values, head * D, C, seen, D);
    }
  }

  /** x += gelu(ln_2(x) W_fc + b_fc) W_proj + b_proj. */
  mlpBlock(name, rows) {
    const { d_model: C, hidden_size: F } = this.shape;
    const hidden = this.hidden;
    this.norm(this.normed, this.x, `${name}.ln_2`, rows);
    this.linear(hidden, this.normed, `${name}.mlp.c_fc`, rows, C, F, false);
    for (let f = 0; f < rows * F; f++) {
      const h = hidden[f];
      hidden[f] = 0.5 * h * (1 + Math.tanh(GELU_SCALE * (h + GELU_CUBE * h * h * h)));
    }
    this.linear(this.x, hidden, `${name}.mlp.c_proj`, rows, F, C, true);
  }

  /** y (N, C) = (x - mean) / sqrt(variance + epsilon) * weight + bias. */
  norm(y, x, name, rows) {
    const C = this.shape.d_model;
    const weight = this.tensors[`${name}.weight`];
    const bias = this.tensors[`${name}.bias`];
    for (let at = 0; at < rows * C; at += C) {
      let total = 0;
      for (let c = 0; c < C; c++) total += x[at + c];
      const mean = total / C;
      let squares = 0;
      for (let c = 0; c < C; c++) squares += (x[at + c] - mean) ** 2;
      const rstd = 1 / Math.sqrt(squares / C + EPSILON);
      for (let c = 0; c < C; c++) y[at + c] = (x[at + c] - mean) * rstd * weight[c] + bias[c];
    }
  }

  /** y (N, O) = x (N, I) weight (I, O) + bias, added to y if `adds`. */
  linear(y, x, name, rows, I, O, adds) {
    const weight = this.tensors[`${name}.weight`];
    const bias = this.tensors[`${name}.bias`];
    for (let row = 0; row < rows; row++) {
      if (!adds) y.fill(0, row * O, (row + 1) * O);
      for (let o = 0; o < O; o++) y[row * O + o] += bias[o];
    }
    const block = 8; // rows of the weight, a multiple of 4
    for (let i = 0; i < I; i += block) {
      const count = Math.min(block, I - i);
      for (let row = 0; row < rows; row++) addRows(y, row * O, x, row * I + i, weight, i * O, O, count, O);
    }
  }
}

/** y[at + i] += the sum of x[from + r] * rows[start + r * stride + i] over `count` rows, for `width` values. */
function addRows(y, at, x, from, rows, start, stride, count, width) {
  let r = 0;
  for (; r + 4 <= count; r += 4) {
    const a = x[from + r], b = x[from + r + 1], c = x[from + r + 2], d = x[from + r + 3];
    const first = start + r * stride;
    const second = first + stride, third = second + stride, fourth = third + stride;
    for (let i = 0; i < width; i++) {
      y[at + i] += a * rows[first + i] + b * rows[second + i] + (c * rows[third + i] + d * rows[fourth + i]);
    }
  }
  for (; r < count; r++) {
    const a = x[from + r];
    const first = start + r * stride;
    for (let i = 0; i < width; i++) y[at + i] += a * rows[first + i];
  }
}

/** y[r] = the dot product of x (width,) and rows[start + r * stride ...], for `count` rows. */
function dotRows(y, x, rows, start, stride, count, width) {
  let r = 0;
  for (; r + 4 <= count; r += 4) {
    const first = start + r * stride;
    const second = first + stride, third = second + stride, fourth = third + stride;
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < width; i++) {
      const value = x[i];
      a += value * rows[first + i];
      b += value * rows[second + i];
      c += value * rows[third + i];
      d += value * rows[fourth + i];
    }
    y[r] = a;
    y[r + 1] = b;
    y[r + 2] = c;
    y[r + 3] = d;
  }
  for (; r < count; r++) {
    let a = 0;
    for (let i = 0; i < width; i++) a += x[i] * rows[start + r * stride + i];
    y[r] = a;
  }
}
