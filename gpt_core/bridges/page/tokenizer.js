"use strict";

// Longest-match tokenizer: the same ids as `gpt_core.tokenizers.pieces` and `gpt_core.generation.prompt`, for any bytes.

const PAD = 0, BOS = 1, EOS = 2, UNK = 3;
const FIRST_BYTE = 4; // id of the byte 0; byte b has the id FIRST_BYTE + b
const FIRST_PIECE = 260;
const NEWLINE = 10;
const DIGEST_BYTES = 32;
const SLICE_BYTES = 4; // of a slice of a word, in `foldSlices`
const NO_BYTES = new Uint8Array(0);

class Tokenizer {
  /** Read a serialized tokenizer: a line of JSON, each piece after its length, and a SHA-256. */
  constructor(data) {
    const lineEnd = data.indexOf(NEWLINE);
    const header = JSON.parse(new TextDecoder().decode(data.subarray(0, lineEnd)));
    this.vocabSize = header.vocab_size;
    this.folds = header.mode !== "pieces"; // `ascii`, which earlier versions call `seed`
    this.lookahead = this.folds ? 0 : 4; // characters that decide the token at a position
    this.vocabulary = Array(FIRST_BYTE).fill(NO_BYTES);
    for (let byte = 0; byte < 256; byte++) this.vocabulary.push(Uint8Array.of(byte));
    const end = data.length - DIGEST_BYTES;
    for (let at = lineEnd + 1; at < end; at += 1 + data[at]) {
      this.vocabulary.push(data.slice(at + 1, at + 1 + data[at]));
    }
    this.buildTrie();
  }

  /** Build the edges (state * 256 + byte -> state) and the id of the piece that ends in a state. */
  buildTrie() {
    this.edges = new Map();
    this.idAt = Array(256).fill(0); // states 0 to 255 are the single bytes; 0: no piece ends here
    for (let id = FIRST_PIECE; id < this.vocabulary.length; id++) {
      const piece = this.vocabulary[id];
      let state = piece[0];
      for (let i = 1; i < piece.length; i++) {
        const key = state * 256 + piece[i];
        let target = this.edges.get(key);
        if (target === undefined) {
          target = this.idAt.length;
          this.edges.set(key, target);
          this.idAt.push(0);
        }
        state = target;
      }
      this.idAt[state] = id;
    }
  }

  /** Return the ids of some bytes, without special ids. */
  encode(bytes) {
    const ids = [];
    for (const part of this.folds ? foldSlices(bytes) : [bytes]) this.encodePart(part, ids);
    return ids;
  }

  /** Append the ids of bytes without a boundary in them. */
  encodePart(bytes, ids) {
    let at = 0;
    while (at < bytes.length) {
      let state = bytes[at];
      let found = FIRST_BYTE + state;
      let longest = at + 1;
      for (let end = at + 1; end < bytes.length; ) {
        state = this.edges.get(state * 256 + bytes[end]);
        if (state === undefined) break;
        end++;
        if (this.idAt[state]) {
          found = this.idAt[state];
          longest = end;
        }
      }
      ids.push(found);
      at = longest;
    }
  }

  /** Return the bytes of an id; none for special and unused ids. */
  tokenBytes(id) {
    return this.vocabulary[id] ?? NO_BYTES;
  }

  /** Return the ids that are the same whatever follows the prompt, and the remaining bytes at its end. */
  splitPrompt(bytes) {
    const ids = this.encode(bytes);
    let rest = NO_BYTES;
    while (ids.length) {
      const longer = joined(this.tokenBytes(ids[ids.length - 1]), rest);
      if (characters(longer) >= this.lookahead) break;
      ids.pop();
      rest = longer;
    }
    return { ids, rest };
  }

  /** Return which ids may be generated (V,): those with bytes, and the end of text. */
  sampledIds() {
    const allowed = new Uint8Array(this.vocabSize);
    for (let id = FIRST_BYTE; id < this.vocabulary.length; id++) allowed[id] = 1;
    allowed[EOS] = 1;
    return allowed;
  }

  /** Return which ids (V,) spell the beginning of `rest`, or all of it and more. */
  spelling(rest) {
    const allowed = new Uint8Array(this.vocabSize);
    for (let id = FIRST_BYTE; id < this.vocabulary.length; id++) {
      const piece = this.vocabulary[id];
      const length = Math.min(piece.length, rest.length);
      let i = 0;
      while (i < length && piece[i] === rest[i]) i++;
      allowed[id] = i === length ? 1 : 0;
    }
    return allowed;
  }
}

/** Fold bytes to lower-case ASCII, split them at white space, and cut each word into slices of four bytes. */
function foldSlices(bytes) {
  const slices = [];
  let slice = [];
  const finish = () => {
    if (slice.length) slices.push(Uint8Array.from(slice));
    slice = [];
  };
  for (const byte of bytes) {
    if (byte >= 128) continue;
    if (byte === 32 || (byte >= 9 && byte <= 13)) {
      finish();
      continue;
    }
    slice.push(byte >= 65 && byte <= 90 ? byte + 32 : byte);
    if (slice.length === SLICE_BYTES) finish();
  }
  finish();
  return slices;
}

/** Return the number of UTF-8 characters that start in some bytes. */
function characters(bytes) {
  let count = 0;
  for (const byte of bytes) count += (byte & 0xc0) !== 0x80 ? 1 : 0;
  return count;
}

function joined(left, right) {
  const bytes = new Uint8Array(left.length + right.length);
  bytes.set(left);
  bytes.set(right, left.length);
  return bytes;
}
