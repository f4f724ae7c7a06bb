"""The compiled half of the tokenizer: finding pieces in bytes, and counting which n-grams of characters a text has.

`PieceMatcher` holds the pieces in a trie and cuts bytes into ids; `NgramCounter` counts candidates for pieces in
bounded memory. The pure half, what is a tokenizer and how its pieces are chosen, is `gpt_core.text.vocabulary`.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

cdef enum:
    BOS = 1
    EOS = 2
    FIRST_BYTE = 4  # the id of the byte 0; byte b is FIRST_BYTE + b
    SEED_SLICE = 4  # bytes in a slice of a word, in seed mode
    NO_PIECE = -1


cdef class PieceMatcher:
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


cdef check_room(const int64_t[::1] ends, Py_ssize_t length, Py_ssize_t room, Py_ssize_t wanted):
    """Refuse ends that do not rise within the text, and too small an output."""
    cdef Py_ssize_t part
    cdef int64_t last = 0
    for part in range(ends.shape[0]):
        if ends[part] < last or ends[part] > length:
            raise ValueError(f"ends must rise from 0 to {length}, got {ends[part]} after {last}")
        last = ends[part]
    if room < wanted:
        raise ValueError(f"{wanted} ids may be needed, and there is room for {room}")


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


cdef class NgramCounter:
    """Counts the n-grams of 1 to 4 characters of a text in bounded memory.

    A character is a valid UTF-8 sequence; an invalid byte, or a character beyond the first 65,535 different ones,
    stands in no n-gram. Single bytes are not counted, having ids already. An n-gram is one 64-bit key, 16 bits a
    character, the last one lowest. When the table is three quarters full, the rarest n-grams are dropped until it is
    at most half full: what is frequent all over the text is never lost, and its count is too low by at most the last
    level dropped.
    """

    cdef uint64_t* keys
    cdef uint32_t* counts
    cdef uint64_t* spare_keys  # what `drop_rare` moves the rest into; untouched, and so no memory, until then
    cdef uint32_t* spare_counts
    cdef uint16_t* number_of  # (0x110000,) the number of a character, in order of appearance; 0: not seen yet
    cdef uint32_t* characters  # (65536,) the code point of a number
    cdef uint32_t known
    cdef Py_ssize_t slots, used
    cdef readonly int dropped_below
    """N-grams that were dropped had at most this count when they were."""

    def __cinit__(self, int log2_slots=22):
        self.slots = 1 << log2_slots
        self.keys = <uint64_t*>calloc(self.slots, sizeof(uint64_t))
        self.counts = <uint32_t*>calloc(self.slots, sizeof(uint32_t))
        self.spare_keys = <uint64_t*>calloc(self.slots, sizeof(uint64_t))
        self.spare_counts = <uint32_t*>calloc(self.slots, sizeof(uint32_t))
        self.number_of = <uint16_t*>calloc(0x110000, sizeof(uint16_t))
        self.characters = <uint32_t*>calloc(65536, sizeof(uint32_t))
        if (self.keys == NULL or self.counts == NULL or self.spare_keys == NULL or self.spare_counts == NULL
                or self.number_of == NULL or self.characters == NULL):
            raise MemoryError("no memory for counting n-grams")

    def __dealloc__(self):
        free(self.keys)
        free(self.counts)
        free(self.spare_keys)
        free(self.spare_counts)
        free(self.number_of)
        free(self.characters)

    def add(self, const uint8_t[::1] text, const int64_t[::1] ends):
        """Count the n-grams of each part of `text` (parts as in `PieceMatcher.encode`)."""
        cdef Py_ssize_t parts = ends.shape[0], length = text.shape[0], part, end, begin = 0
        check_room(ends, length, length, length)
        if length == 0:
            return
        with nogil:
            for part in range(parts + 1):
                end = ends[part] if part < parts else length
                if end > begin:
                    self.add_part(&text[begin], end - begin)
                begin = end

    cdef void add_part(self, const uint8_t* text, Py_ssize_t length) noexcept nogil:
        cdef Py_ssize_t at = 0, size
        cdef uint32_t code
        cdef uint64_t window = 0, number
        cdef uint64_t two = (<uint64_t>1 << 32) - 1, three = (<uint64_t>1 << 48) - 1
        cdef int filled = 0  # characters in the window
        while at < length:
            size = character_size(text + at, length - at, &code)
            number = self.number(code) if size else 0
            at += size if size else 1
            if number == 0:
                window = 0
                filled = 0
                continue
            window = window << 16 | number
            if filled < 4:
                filled += 1
            if size > 1:
                self.count(window & 0xFFFF)
            if filled >= 2:
                self.count(window & two)
            if filled >= 3:
                self.count(window & three)
            if filled >= 4:
                self.count(window)

    cdef inline uint64_t number(self, uint32_t code) noexcept nogil:
        """The number of a character, given at its first appearance; 0 if there are too many."""
        cdef uint16_t number = self.number_of[code]
        if number == 0 and self.known < 65535:
            self.known += 1
            number = <uint16_t>self.known
            self.number_of[code] = number
            self.characters[number] = code
        return number

    cdef inline void count(self, uint64_t key) noexcept nogil:
        cdef Py_ssize_t slot = self.slot_of(key)
        if self.keys[slot] == 0:
            if 4 * self.used >= 3 * self.slots:
                self.drop_rare()
                slot = self.slot_of(key)
            self.keys[slot] = key
            self.used += 1
        if self.counts[slot] + 1 != 0:  # at most 2^32 - 1
            self.counts[slot] += 1

    cdef inline Py_ssize_t slot_of(self, uint64_t key) noexcept nogil:
        """The slot that holds `key`, or the empty one in which it belongs."""
        cdef Py_ssize_t slot = ((key * <uint64_t>0x9E3779B97F4A7C15) >> 32) & (self.slots - 1)
        while self.keys[slot] != 0 and self.keys[slot] != key:
            slot = (slot + 1) & (self.slots - 1)
        return slot

    cdef void drop_rare(self) noexcept nogil:
        """Drop the rarest n-grams until the table is at most half full, and put the rest in their places."""
        cdef Py_ssize_t kept = self.slots, slot, target
        cdef uint32_t level = 0
        while 2 * kept > self.slots:
            level += 1
            kept = 0
            for slot in range(self.slots):
                kept += self.counts[slot] > level
        if <int>level > self.dropped_below:
            self.dropped_below = <int>level
        self.keys, self.spare_keys = self.spare_keys, self.keys
        self.counts, self.spare_counts = self.spare_counts, self.counts
        memset(self.keys, 0, self.slots * sizeof(uint64_t))
        memset(self.counts, 0, self.slots * sizeof(uint32_t))
        for slot in range(self.slots):
            if self.spare_counts[slot] > level:
                target = self.slot_of(self.spare_keys[slot])
                self.keys[target] = self.spare_keys[slot]
                self.counts[target] = self.spare_counts[slot]
        self.used = kept

    def items(self):
        """The n-grams in the table: keys (n,) uint64 and counts (n,) uint32, in no order that means anything."""
        cdef Py_ssize_t slot, at = 0
        keys = np.empty(self.used, dtype=np.uint64)
        counts = np.empty(self.used, dtype=np.uint32)
        cdef uint64_t[::1] out_keys = keys
        cdef uint32_t[::1] out_counts = counts
        with nogil:
            for slot in range(self.slots):
                if self.keys[slot] != 0:
                    out_keys[at] = self.keys[slot]
                    out_counts[at] = self.counts[slot]
                    at += 1
        return keys, counts

    def text_of(self, uint64_t key):
        """The characters of an n-gram, in UTF-8."""
        cdef int place
        characters = [chr(self.characters[(key >> 16 * place) & 0xFFFF]) for place in range(3, -1, -1)
                      if (key >> 16 * place) & 0xFFFF]
        return "".join(characters).encode()


cdef inline Py_ssize_t character_size(const uint8_t* text, Py_ssize_t length, uint32_t* code) noexcept nogil:
    """Bytes of the UTF-8 character at `text`, its code point in `code`; 0 where there is none (RFC 3629, table 3-7)."""
    cdef uint8_t first = text[0]
    cdef uint8_t low = 0x80, high = 0xBF  # bounds of the second byte: no overlong forms, surrogates, or beyond 0x10FFFF
    cdef Py_ssize_t size, i
    if first < 0x80:
        code[0] = first
        return 1
    if first < 0xC2 or first > 0xF4:
        return 0
    if first < 0xE0:
        size = 2
        code[0] = first & 0x1F
    elif first < 0xF0:
        size = 3
        code[0] = first & 0x0F
        low = 0xA0 if first == 0xE0 else 0x80
        high = 0x9F if first == 0xED else 0xBF
    else:
        size = 4
        code[0] = first & 0x07
        low = 0x90 if first == 0xF0 else 0x80
        high = 0x8F if first == 0xF4 else 0xBF
    if length < size or text[1] < low or text[1] > high:
        return 0
    for i in range(1, size):
        if text[i] & 0xC0 != 0x80:
            return 0
        code[0] = code[0] << 6 | (text[i] & 0x3F)
    return size
