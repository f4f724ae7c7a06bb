"use strict";

// The worker of the page: receives the weights in parts, then answers one request at a time. A new request ends the one
// before it.
//
//   in   start      shape, entries of the stream (name, dtype, shape, start, end), its length in bytes
//        weights    base64 text of the next part of the stream
//        read       prompt, ids after it, sampling, number of new tokens (0: only the probabilities)
//        stop
//   out  loaded     bytes received so far; `ready` once all are there
//        next       the most probable tokens at a position; without new tokens, after those (`before`) that only spell
//                   the end of the prompt
//        token      a new token
//        done       why, how fast, and how many tokens of the prompt are read, and skipped before them
//        failed     a line for the user

const SHOWN = 10; // most probable tokens that the page lists
const SLICE_MS = 12; // time between two looks for messages

let stream, received, start, generator;
let request = 0; // number of the newest request

onmessage = ({ data }) => {
  try {
    if (data.type === "start") begin(data);
    else if (data.type === "weights") receive(data.base64);
    else if (data.type === "stop") request++;
    else if (data.type === "read") read(data, ++request).catch(fail);
  } catch (error) {
    fail(error);
  }
};

function fail(error) {
  postMessage({ type: "failed", message: error instanceof RangeError ? "There is not enough memory." : error.message });
}

function begin(message) {
  start = message;
  stream = new Uint8Array(message.bytes);
  received = 0;
}

function receive(base64) {
  const text = atob(base64);
  for (let i = 0; i < text.length; i++) stream[received + i] = text.charCodeAt(i);
  received += text.length;
  const isReady = received === stream.length;
  if (isReady) {
    const tensors = Object.fromEntries(start.entries.map((entry) => [entry.name, decoded(entry)]));
    generator = new Generator(new Tokenizer(tensors.tokenizer), new Transformer(start.shape, tensors));
    stream = null;
  }
  postMessage({ type: isReady ? "ready" : "loaded", bytes: received });
}

/** Return a tensor of the stream as float32, or the bytes of the tokenizer. */
function decoded({ dtype, shape, start: from, end }) {
  const bytes = stream.slice(from, end); // a copy, so that values are aligned
  if (dtype === "U8") return bytes;
  if (dtype === "F32") return new Float32Array(bytes.buffer);
  if (dtype === "BF16") {
    const bits = Uint32Array.from(new Uint16Array(bytes.buffer), (upper) => upper << 16);
    return new Float32Array(bits.buffer);
  }
  const [rows, columns] = shape; // int8: a scale per row (I8R) or column (I8C), then the values
  const byRow = dtype === "I8R";
  const count = byRow ? rows : columns;
  const scales = new Float32Array(bytes.buffer, 0, count);
  const values = new Int8Array(bytes.buffer, 4 * count);
  return Float32Array.from(values, (value, i) => value * scales[byRow ? Math.floor(i / columns) : i % columns]);
}

/** Context of the model, and the tokens in its cache. */
class Generator {
  constructor(tokenizer, model) {
    this.tokenizer = tokenizer;
    this.model = model;
    this.cached = [];
    this.allowed = tokenizer.sampledIds();
  }

  /** Return the ids that the model reads: when the context is full, its last half is the new context. */
  context(promptIds, tokens) {
    const capacity = this.model.shape.seq_len;
    let context = promptIds.slice();
    for (const token of tokens) {
      context.push(token);
      if (context.length > capacity) context = context.slice(-Math.floor(capacity / 2));
    }
    return context;
  }

  /** Return the logits after a context, or null if `isCurrent` turned false. */
  async logits(context, isCurrent) {
    let same = 0;
    while (same < context.length && context[same] === this.cached[same]) same++;
    if (same < context.length || same < this.cached.length) {
      this.cached.length = this.model.length = Math.min(same, context.length - 1); // the last one gives the logits
    }
    while (this.cached.length < context.length) {
      if (!(await isCurrent())) return null;
      const ids = context.slice(this.cached.length, this.cached.length + MAX_ROWS);
      this.model.append(ids);
      this.cached.push(...ids);
    }
    return this.model.lastLogits();
  }
}

let sliceEnd = 0;
const channel = new MessageChannel();

/** Let messages arrive every few milliseconds. A timer would wait for at least 4 ms. */
function pause() {
  if (performance.now() < sliceEnd) return null;
  return new Promise((resolve) => {
    channel.port1.onmessage = () => {
      sliceEnd = performance.now() + SLICE_MS;
      resolve();
    };
    channel.port2.postMessage(null);
  });
}

/** Read the prompt and the tokens after it, and generate up to `count` new ones. */
async function read({ prompt, tokens, sampling, count, id }, number) {
  const { tokenizer, allowed: sampled } = generator;
  const isCurrent = async () => {
    await pause();
    return number === request;
  };
  const { ids, rest: spelled } = tokenizer.splitPrompt(new TextEncoder().encode(prompt));
  const room = generator.model.shape.seq_len - spelled.length; // a token that spells the end has at least one byte
  const promptIds = [BOS, ...ids].slice(-Math.max(1, room));
  const skippedTokens = 1 + ids.length - promptIds.length;
  const all = tokens.slice();
  let rest = spelled;
  let readTokens = promptIds.length; // and those that only spell the end
  for (const token of tokens) {
    const { length } = tokenizer.tokenBytes(token);
    if (length <= rest.length) readTokens++;
    rest = rest.subarray(length);
  }
  const random = new Random(sampling.seed);
  all.forEach(() => random.next());
  let produced = 0;
  let firstAt = 0; // when the first token was there: the speed does not count the prompt
  const finish = (reason) => {
    const seconds = (performance.now() - firstAt) / 1000;
    const tokensPerSecond = seconds > 0 ? Math.max(0, produced - 1) / seconds : 0; // some clocks tick in 100 ms
    postMessage({ type: "done", id, reason, tokensPerSecond, readTokens, skippedTokens });
  };
  while (true) {
    const context = generator.context(promptIds, all);
    const logits = await generator.logits(context, isCurrent);
    if (!logits || !(await isCurrent())) return finish("stopped");
    const spelling = rest.length ? tokenizer.spelling(rest) : null;
    const allowed = spelling ? sampled.map((one, token) => one & spelling[token]) : sampled;
    const probabilities = nextTokenProbabilities(logits, sampling, allowed, context);
    const shown = sampling.temperature ? probabilities : nextTokenProbabilities(logits, MODEL_ITSELF, allowed, []);
    if (!count && rest.length) {
      // Read on with the most probable token that only spells the end of the prompt: users look for what follows it.
      const [best] = mostProbable(shown, 1);
      const spelled = tokenizer.tokenBytes(best).length;
      if (best !== EOS && spelled <= rest.length) {
        rest = rest.subarray(spelled);
        all.push(best);
        continue;
      }
    }
    const before = count ? [] : all.slice(tokens.length);
    postMessage({ type: "next", id, before, ...listed(shown, rest) });
    if (produced === count) return finish(count ? "length" : "read");
    const token = draw(probabilities, random.next());
    const bytes = tokenizer.tokenBytes(token);
    postMessage({ type: "token", id, token, bytes: bytes.slice(rest.length), probability: shown[token] });
    if (token === EOS) return finish("end");
    if (bytes.length > rest.length) produced++;
    else readTokens++;
    if (produced === 1 && !firstAt) firstAt = performance.now();
    rest = rest.subarray(bytes.length);
    all.push(token);
  }
}

const MODEL_ITSELF = { temperature: 1, top_k: 0, top_p: 1, repetition_penalty: 1 };

/** Return the most probable tokens, and how many others there are with which probability. */
function listed(probabilities, rest) {
  const ids = mostProbable(probabilities, SHOWN);
  const candidates = ids.map((token) => {
    const bytes = generator.tokenizer.tokenBytes(token);
    return {
      token,
      probability: probabilities[token],
      known: bytes.slice(0, rest.length), // bytes that the prompt has already
      added: bytes.slice(rest.length),
    };
  });
  let others = 0;
  let otherProbability = 0;
  const isListed = new Set(ids);
  probabilities.forEach((probability, token) => {
    if (!probability || isListed.has(token)) return;
    others++;
    otherProbability += probability;
  });
  return { candidates, others, otherProbability };
}
