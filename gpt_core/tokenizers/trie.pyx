"""The compiled half of the tokenizer: finding pieces in bytes, and counting which n-grams of characters a text has.

`PieceTrie` holds the pieces in a trie and cuts bytes into ids; `NgramCounter` counts candidates for pieces in
bounded memory. The pure half, what is a tokenizer and how its pieces are chosen, is `gpt_core.tokenizers.pieces`.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

from gpt_core.tokenizers.part_ends cimport check_room

cdef enum:
    BOS = 1
    EOS = 2
    FIRST_BYTE = 4  # the id of the byte 0; byte b is FIRST_BYTE + b
    SEED_SLICE = 4  # bytes in a slice of a word, in seed mode
    NO_PIECE = -1


cdef class PieceTrie:
    """A trie of pieces, and the greedy cutting of bytes into the longest piece that fits at each place.

    The trie's edges lie in one open-addressing hash table, key (state, byte), at most half full: its size follows the
    pieces and not the states times 256. The states 0..255 are the single bytes, so the root needs no look-up, and 0,
    never being the target of an edge, stands for "no edge".
    """

    cdef uint64_t* edges  # key << 32 | target state; key = state << 8 | byte; 0: empty slot
    cdef int32_t* id_at  # (states,) the id of the piece that ends in the state, or NO_PIECE
    cdef uint32_t shift  # 32 - log2(slots): the hash is the top bits of a product
    cdef uint32_t mask
    cdef uint32_t states

    def __cinit__(self, list pieces, int first_id):
        """`pieces`: unique byte strings of at least 2 bytes, the first of which has the id `first_id`."""
        cdef Py_ssize_t room = 256
        cdef Py_ssize_t slots = 1 << 10
        cdef bytes piece
        for piece in pieces:
            room += len(piece)
        if room >= 1 << 24:
            raise ValueError(f"the pieces have {room:,} bytes in all, and a trie holds {(1 << 24) - 1:,}")
        self.shift = 32 - 10
        while slots < 2 * room:
            slots *= 2
            self.shift -= 1
        self.mask = <uint32_t>(slots - 1)
        self.edges = <uint64_t*>calloc(slots, sizeof(uint64_t))
        self.id_at = <int32_t*>calloc(room, sizeof(int32_t))
        if self.edges == NULL or self.id_at == NULL:
            raise MemoryError("no memory for the trie of the pieces")
        self.states = 256
        memset(self.id_at, 0xFF, room * sizeof(int32_t))
        cdef int32_t next_id = first_id
        for piece in pieces:
            if len(piece) < 2:
                raise ValueError(f"a piece has at least 2 bytes, got {piece!r}")
            self.insert(piece, <Py_ssize_t>len(piece), next_id)
            next_id += 1

    def __dealloc__(self):
        free(self.edges)
        free(self.id_at)

    cdef void insert(self, const uint8_t* piece, Py_ssize_t length, int32_t piece_id) noexcept nogil:
        cdef uint32_t state = piece[0]
        cdef uint32_t target, key, slot
        cdef Py_ssize_t i
        for i in range(1, length):
            target = self.follow(state, piece[i])
            if target == 0:
                target = self.states
                self.states += 1
                key = state << 8 | piece[i]
                slot = (key * <uint32_t>0x9E3779B1) >> self.shift
                while self.edges[slot] != 0:
                    slot = (slot + 1) & self.mask
                self.edges[slot] = <uint64_t>key << 32 | target
            state = target
        self.id_at[state] = piece_id

    cdef inline uint32_t follow(self, uint32_t state, uint8_t byte) noexcept nogil:
        """The state that `byte` leads to from `state`, or 0."""
        cdef uint32_t key = state << 8 | byte
        cdef uint32_t slot = (key * <uint32_t>0x9E3779B1) >> self.shift
        cdef uint64_t edge
        while True:
            edge = self.edges[slot]
            if edge >> 32 == key or edge == 0:
                return <uint32_t>edge
            slot = (slot + 1) & self.mask

    cdef Py_ssize_t cut(self, const uint8_t* text, Py_ssize_t length, int32_t* ids) noexcept nogil:
        """Write the ids of `text` and return how many there are; never more than `length`."""
        cdef Py_ssize_t at = 0, look, longest
        cdef Py_ssize_t count = 0
        cdef uint32_t state
        cdef int32_t found
        while at < length:
            state = text[at]
            found = FIRST_BYTE + <int32_t>state
            longest = look = at + 1
            while look < length:
                state = self.follow(state, text[look])
                if state == 0:
                    break
                look += 1
                if self.id_at[state] != NO_PIECE:
                    found = self.id_at[state]
                    longest = look
            ids[count] = found
            count += 1
            at = longest
        return count

    def encode(self, const uint8_t[::1] text, const int64_t[::1] ends, int32_t[::1] ids):
        """Cut each part of `text` by itself; a piece never crosses an end. Return the number of ids written.

        text: (bytes,). ends: the places, rising, at which parts end; what follows the last end is a part too.
        ids: (at least bytes,), out.
        """
        cdef Py_ssize_t parts = ends.shape[0], length = text.shape[0], part, end, begin = 0, count = 0
        check_room(ends, length, ids.shape[0], length)
        if length == 0:
            return 0
        with nogil:
            for part in range(parts + 1):
                end = ends[part] if part < parts else length
                if end > begin:
                    count += self.cut(&text[begin], end - begin, &ids[count])
                begin = end
        return count

    def encode_documents(self, const uint8_t[::1] text, const int64_t[::1] ends, bint is_open, int32_t[::1] ids):
        """Like `encode`, with `<bos>` before each document and `<eos>` at each end. Return (ids written, still open).

        `is_open`: the text begins inside a document, whose `<bos>` was written by an earlier call. What follows the
        last end is the beginning of a document that a later call goes on with: no `<eos>` is written for it. ids: (at
        least bytes + 2 * ends + 1,), out.
        """
        cdef Py_ssize_t parts = ends.shape[0], length = text.shape[0], part, end, begin = 0, count = 0
        check_room(ends, length, ids.shape[0], length + 2 * parts + 1)
        with nogil:
            for part in range(parts + 1):
                end = ends[part] if part < parts else length
                if part == parts and begin == end:
                    break
                if not is_open:
                    ids[count] = BOS
                    count += 1
                    is_open = True
                if end > begin:
                    count += self.cut(&text[begin], end - begin, &ids[count])
                if part < parts:
                    ids[count] = EOS
                    count += 1
                    is_open = False
                begin = end
        return count, bool(is_open)


def fold_slices(const uint8_t[::1] text):
    """Seed mode: lower-case ASCII, split on white space, each word cut into slices of four bytes.

    Returns (folded bytes without white space, ends of the slices (slices,) int64). Bytes beyond ASCII are dropped
    before anything else, so they do not split a word.
    """
    cdef Py_ssize_t length = text.shape[0], at, count = 0, slices = 0, begin = 0
    cdef uint8_t byte
    folded = np.empty(max(length, 1), dtype=np.uint8)
    ends = np.empty(length + 1, dtype=np.int64)
    cdef uint8_t[::1] out = folded
    cdef int64_t[::1] out_ends = ends
    with nogil:
        for at in range(length):
            byte = text[at]
            if byte >= 128:
                continue
            if byte == 32 or 9 <= byte <= 13:
                if count > begin:
                    out_ends[slices] = begin = count
                    slices += 1
                continue
            out[count] = byte + 32 if 65 <= byte <= 90 else byte
            count += 1
            if count - begin == SEED_SLICE:
                out_ends[slices] = begin = count
                slices += 1
        if count > begin:
            out_ends[slices] = count
            slices += 1
    return folded[:count].tobytes(), ends[:slices].copy()
