"use strict";

// Sampling of the next token: the arithmetic of `gpt_core.generation.sampler`, and NumPy's random numbers (PCG64).

/** Return the distribution (V,) that a token is drawn from; at temperature 0 it is one-hot at the maximum. */
function nextTokenProbabilities(logits, sampling, allowed, seen) {
  let shifted = Float64Array.from(logits, (logit, id) => (allowed[id] ? logit : -Infinity));
  if (sampling.repetition_penalty !== 1) {
    for (const id of new Set(seen)) {
      if (shifted[id] > 0) shifted[id] /= sampling.repetition_penalty;
      else shifted[id] *= sampling.repetition_penalty;
    }
  }
  const largest = shifted.reduce((left, right) => Math.max(left, right), -Infinity);
  if (!Number.isFinite(largest)) throw new Error("The logits are not finite: the weights are damaged.");
  if (sampling.temperature === 0) {
    const best = shifted.indexOf(largest);
    return shifted.fill(0).fill(1, best, best + 1);
  }
  shifted = shifted.map((logit) => (logit - largest) / sampling.temperature);
  keepTopK(shifted, sampling.top_k);
  const weights = shifted.map(Math.exp);
  return keepTopP(normalized(weights), sampling.top_p);
}

/** Set all but the k largest logits to -Infinity, in place; ties with the k-th are kept. 0 keeps all. */
function keepTopK(logits, k) {
  if (k <= 0 || k >= logits.length) return;
  const edge = logits.slice().sort()[logits.length - k];
  for (let id = 0; id < logits.length; id++) if (logits[id] < edge) logits[id] = -Infinity;
}

/** Return the probabilities restricted to the smallest set with total probability p, and normalized. */
function keepTopP(probabilities, p) {
  if (p >= 1) return probabilities;
  const least = (1 - p) / probabilities.length;
  const candidates = probabilities.filter((probability) => probability >= least).sort().reverse();
  let reached = 0;
  let last = 0;
  for (; last < candidates.length - 1; last++) {
    reached += candidates[last];
    if (reached >= p) break;
  }
  return normalized(probabilities.map((probability) => (probability >= candidates[last] ? probability : 0)));
}

function normalized(weights) {
  const total = weights.reduce((left, right) => left + right, 0);
  return weights.map((weight) => weight / total);
}

/** Return the id at a random number in [0, 1). */
function draw(probabilities, random) {
  const target = random * probabilities.reduce((left, right) => left + right, 0);
  let reached = 0;
  let possible = 0;
  for (let id = 0; id < probabilities.length; id++) {
    if (!probabilities[id]) continue;
    possible = id;
    reached += probabilities[id];
    if (reached > target) break;
  }
  return possible;
}

/** Return the ids of the `count` largest probabilities above 0, largest first. */
function mostProbable(probabilities, count) {
  const ids = [];
  for (let id = 0; id < probabilities.length; id++) {
    const probability = probabilities[id];
    if (!probability || (ids.length === count && probability <= probabilities[ids[count - 1]])) continue;
    let at = ids.length;
    while (at > 0 && probabilities[ids[at - 1]] < probability) at--;
    ids.splice(at, 0, id);
    ids.length = Math.min(ids.length, count);
  }
  return ids;
}

const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const PCG_MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;

/** Random numbers of `numpy.random.default_rng(seed)`, for an integer seed from 0 to 2^53 - 1. */
class Random {
  constructor(seed) {
    const [high, low, sequenceHigh, sequenceLow] = seedWords(BigInt(seed));
    this.increment = ((((sequenceHigh << 64n) | sequenceLow) << 1n) | 1n) & MASK_128;
    this.state = this.increment;
    this.state = (this.state + ((high << 64n) | low)) & MASK_128;
    this.step();
  }

  step() {
    this.state = (this.state * PCG_MULTIPLIER + this.increment) & MASK_128;
  }

  /** Return the next number in [0, 1). */
  next() {
    this.step();
    const mixed = (this.state >> 64n) ^ (this.state & MASK_64);
    const turns = this.state >> 122n;
    const rotated = ((mixed >> turns) | (mixed << (64n - turns))) & MASK_64;
    return Number(rotated >> 11n) / 2 ** 53;
  }
}

/** Return four 64-bit words of entropy from a seed, as NumPy's SeedSequence does. */
function seedWords(seed) {
  const entropy = [];
  for (let rest = seed; rest > 0n || !entropy.length; rest >>= 32n) entropy.push(Number(rest & 0xffffffffn));
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    const mixed = value ^ constant;
    constant = Math.imul(constant, 0x931e8875);
    const product = Math.imul(mixed, constant);
    return product ^ (product >>> 16);
  };
  const mix = (left, right) => {
    const result = Math.imul(left, 0xca01f9dd) - Math.imul(right, 0x4973f715);
    return result ^ (result >>> 16);
  };
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  constant = 0x8b51f9dd;
  const words = Array.from({ length: 8 }, (_, i) => {
    const mixed = pool[i % 4] ^ constant;
    constant = Math.imul(constant, 0x58f38ded);
    const product = Math.imul(mixed, constant);
    return BigInt((product ^ (product >>> 16)) >>> 0);
  });
  return [0, 2, 4, 6].map((i) => words[i] | (words[i + 1] << 32n));
}
