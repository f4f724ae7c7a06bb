"use strict";

// The forward pass of the model with a cache of keys and values: `gpt_core.reference` for the last few tokens at a time.
//
// The layers are those of GPT-2, of Qwen3, or any other choice of the settings norm, qk_norm, positions, mlp, bias,
// tied_head and x0_shortcut.
//
// Shapes: C channels, H heads, D = C / H, F hidden size, T context length, V vocabulary, N tokens read at once.

const GPT2 = { norm: "layer_norm", positions: "learned", mlp: "gelu" }; // settings that a shape leaves out
const LAYER_NORM_EPSILON = 1e-5;
const RMS_NORM_EPSILON = 1e-6;
const ROPE_BASE = 10000;
const GELU_SCALE = Math.sqrt(2 / Math.PI);
const GELU_CUBE = 0.044715;
const MAX_ROWS = 8; // N: a weight that is in the processor's cache is used for this many tokens

class Transformer {
  /** Create a model from its shape and its tensors: a Float32Array by name. */
  constructor(shape, tensors) {
    this.shape = { ...GPT2, ...shape };
    this.tensors = tensors;
    this.length = 0; // positions in the cache
    const { d_model: C, hidden_size: F, seq_len: T, num_heads: H, layers, vocab_size: V } = shape;
    const wide = shape.mlp === "swiglu" ? 2 * F : F;
    const rows = (width) => new Float32Array(MAX_ROWS * width);
    this.x = rows(C);
    this.x0 = rows(C);
    this.normed = rows(C);
    this.qkv = rows(3 * C);
    this.attended = rows(C);
    this.hidden = rows(wide);
    this.active = rows(F);
    this.scores = new Float32Array(T);
    this.zeros = new Float32Array(Math.max(3 * C, wide)); // the bias of a layer that has none
    this.caches = Array.from({ length: layers }, () => ({
      keys: new Float32Array(T * C),
      values: new Float32Array(T * C),
    }));
    this.rotations = shape.positions === "rope" ? rotations(T, C / H) : null;
    this.logits = new Float32Array(V);
  }

  /** Append at most MAX_ROWS tokens to the cache. */
  append(ids) {
    const { layers } = this.shape;
    this.embed(ids);
    this.x0.set(this.x);
    for (let layer = 0; layer < layers; layer++) {
      this.addShortcut(`h.${layer}`, ids.length);
      this.attentionBlock(`h.${layer}`, this.caches[layer], ids.length);
      this.mlpBlock(`h.${layer}`, ids.length);
    }
    this.length += ids.length;
    this.lastRow = ids.length - 1;
  }

  /** Return the logits (V,) that follow the last token: ln_f(x) wteᵀ, or ln_f(x) lm_headᵀ. The array is reused. */
  lastLogits() {
    const { d_model: C, vocab_size: V } = this.shape;
    const last = this.x.subarray(this.lastRow * C, (this.lastRow + 1) * C);
    const head = this.tensors["lm_head.weight"] ?? this.tensors["wte.weight"]; // tied to the token embedding
    this.norm(this.normed, last, "ln_f", 1);
    dotRows(this.logits, this.normed, head, 0, C, V, C);
    return this.logits;
  }

  /** x = token embedding + position embedding. With rotary positions there is no position embedding. */
  embed(ids) {
    const C = this.shape.d_model;
    const tokens = this.tensors["wte.weight"];
    const positions = this.tensors["wpe.weight"];
    ids.forEach((id, row) => {
      const position = (this.length + row) * C;
      for (let c = 0; c < C; c++) {
        this.x[row * C + c] = tokens[id * C + c] + (positions ? positions[position + c] : 0);
      }
    });
  }

  /** x += s x0, if the block has a scale s for the embedding x0. */
  addShortcut(name, rows) {
    const scale = this.tensors[`${name}.x0_scale`];
    if (!scale) return;
    const count = rows * this.shape.d_model;
    for (let i = 0; i < count; i++) this.x[i] += scale[0] * this.x0[i];
  }

  /** x += softmax(q kᵀ / sqrt(D)) v W_proj + b_proj, with q, k and v of ln_1(x). */
  attentionBlock(name, cache, rows) {
    const C = this.shape.d_model;
    this.norm(this.normed, this.x, `${name}.ln_1`, rows);
    this.linear(this.qkv, this.normed, `${name}.attn.c_attn`, rows, C, 3 * C, false);
    for (let row = 0; row < rows; row++) {
      const at = row * 3 * C; // of the queries; keys and values follow
      this.normHeads(at, `${name}.attn.q_norm`);
      this.normHeads(at + C, `${name}.attn.k_norm`);
      this.rotateHeads(at, this.length + row);
      this.rotateHeads(at + C, this.length + row);
      cache.keys.set(this.qkv.subarray(at + C, at + 2 * C), (this.length + row) * C);
      cache.values.set(this.qkv.subarray(at + 2 * C, at + 3 * C), (this.length + row) * C);
      this.attend(cache, row);
    }
    this.linear(this.x, this.attended, `${name}.attn.c_proj`, rows, C, C, true);
  }

  /** QK norm: the RMS norm of each head of queries or keys, from `at` on in qkv, if the block has a weight (D,). */
  normHeads(at, name) {
    const C = this.shape.d_model;
    const weight = this.tensors[`${name}.weight`];
    if (!weight) return;
    for (let head = at; head < at + C; head += weight.length) rmsNorm(this.qkv, this.qkv, head, weight);
  }

  /**
   * Rotary positions: the channels i and i + D / 2 of a head are a point, which is rotated by an angle.
   *
   *     q[i] = q[i] cos - q[i + D / 2] sin;  q[i + D / 2] = q[i + D / 2] cos + q[i] sin
   *
   * for each head of queries or keys, from `at` on in qkv. So q · k depends on the distance of two positions.
   */
  rotateHeads(at, position) {
    if (!this.rotations) return;
    const { d_model: C, num_heads: H } = this.shape;
    const { cos, sin } = this.rotations;
    const qkv = this.qkv;
    const half = C / H / 2;
    const angle = position * half;
    for (let head = at; head < at + C; head += 2 * half) {
      for (let i = 0; i < half; i++) {
        const a = qkv[head + i], b = qkv[head + half + i];
        qkv[head + i] = a * cos[angle + i] - b * sin[angle + i];
        qkv[head + half + i] = b * cos[angle + i] + a * sin[angle + i];
      }
    }
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

  /** x += f(ln_2(x) W_fc + b_fc) W_proj + b_proj. */
  mlpBlock(name, rows) {
    const { d_model: C, hidden_size: F, mlp } = this.shape;
    this.norm(this.normed, this.x, `${name}.ln_2`, rows);
    this.linear(this.hidden, this.normed, `${name}.mlp.c_fc`, rows, C, mlp === "swiglu" ? 2 * F : F, false);
    this.activate(rows);
    this.linear(this.x, this.active, `${name}.mlp.c_proj`, rows, F, C, true);
  }

  /** active (N, F) = f(hidden). With SwiGLU, hidden (N, 2F) is gates and units, and f = silu(gate) * unit. */
  activate(rows) {
    const { hidden_size: F, mlp } = this.shape;
    const { hidden, active } = this;
    if (mlp === "swiglu") {
      for (let row = 0; row < rows; row++) {
        const gates = row * 2 * F, units = gates + F;
        for (let f = 0; f < F; f++) active[row * F + f] = silu(hidden[gates + f]) * hidden[units + f];
      }
    } else {
      const activation = mlp === "gelu" ? gelu : reluSquared;
      for (let f = 0; f < rows * F; f++) active[f] = activation(hidden[f]);
    }
  }

  /** y (N, C) = the norm of each row of x. */
  norm(y, x, name, rows) {
    const C = this.shape.d_model;
    const weight = this.tensors[`${name}.weight`];
    for (let at = 0; at < rows * C; at += C) {
      if (this.shape.norm === "rms_norm") rmsNorm(y, x, at, weight);
      else layerNorm(y, x, at, weight, this.bias(name));
    }
  }

  /** Return the bias of a layer: zeros if it has none. */
  bias(name) {
    return this.tensors[`${name}.bias`] ?? this.zeros;
  }

  /** y (N, O) = x (N, I) weight (I, O) + bias, added to y if `adds`. */
  linear(y, x, name, rows, I, O, adds) {
    const weight = this.tensors[`${name}.weight`];
    const bias = this.bias(name);
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

/** y = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, for the C values from `at` on. */
function layerNorm(y, x, at, weight, bias) {
  const C = weight.length;
  let total = 0;
  for (let c = 0; c < C; c++) total += x[at + c];
  const mean = total / C;
  let squares = 0;
  for (let c = 0; c < C; c++) squares += (x[at + c] - mean) ** 2;
  const rstd = 1 / Math.sqrt(squares / C + LAYER_NORM_EPSILON);
  for (let c = 0; c < C; c++) y[at + c] = (x[at + c] - mean) * rstd * weight[c] + bias[c];
}

/** y = x / sqrt(mean(x²) + epsilon) * weight, for as many values from `at` on as the weight has. */
function rmsNorm(y, x, at, weight) {
  const C = weight.length;
  let squares = 0;
  for (let c = 0; c < C; c++) squares += x[at + c] ** 2;
  const rstd = 1 / Math.sqrt(squares / C + RMS_NORM_EPSILON);
  for (let c = 0; c < C; c++) y[at + c] = x[at + c] * rstd * weight[c];
}

/** Return cos and sin (T, D / 2) of the angles t 10000^(-2i / D) at position t. */
function rotations(T, D) {
  const half = D / 2;
  const cos = new Float32Array(T * half), sin = new Float32Array(T * half);
  for (let t = 0; t < T; t++) {
    for (let i = 0; i < half; i++) {
      const angle = t * ROPE_BASE ** ((-2 * i) / D);
      cos[t * half + i] = Math.cos(angle);
      sin[t * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

/** h (1 + tanh(sqrt(2 / pi) (h + 0.044715 h³))) / 2. */
function gelu(h) {
  return 0.5 * h * (1 + Math.tanh(GELU_SCALE * (h + GELU_CUBE * h * h * h)));
}

/** max(h, 0)². */
function reluSquared(h) {
  return Math.max(h, 0) ** 2;
}

/** h / (1 + exp(-h)). */
function silu(h) {
  return h / (1 + Math.exp(-h));
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
