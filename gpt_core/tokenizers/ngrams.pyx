"""Counts of the n-grams of characters of a text: candidates for pieces (see `gpt_core.tokenizers.training`)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

from gpt_core.tokenizers.part_ends cimport check_room


cdef class NgramCounter:
    """Counter of the n-grams of 1 to 4 characters of a text, in bounded memory.

    A character is a valid UTF-8 sequence. Invalid bytes, and characters after the first 65,535 distinct ones, are part
    of no n-gram. Single bytes are not counted because they have ids already. An n-gram is stored as one 64-bit key of
    16 bits per character, the last one lowest. When the table is three quarters full, the rarest n-grams are dropped
    until it is at most half full. N-grams that are frequent throughout the text are never lost; their count is too low
    by at most `dropped_below`.
    """

    cdef uint64_t* keys
    cdef uint32_t* counts
    cdef uint64_t* spare_keys  # target of `drop_rare`; its pages are not allocated before it runs
    cdef uint32_t* spare_counts
    cdef uint16_t* number_of  # (0x110000,) number of each character, in order of appearance; 0: not seen yet
    cdef uint32_t* characters  # (65536,) code point of each number
    cdef uint32_t known
    cdef Py_ssize_t slots, used
    cdef readonly int dropped_below
    """Maximum count of the n-grams that were dropped, at that time."""

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
            raise MemoryError("out of memory for counting n-grams")

    def __dealloc__(self):
        free(self.keys)
        free(self.counts)
        free(self.spare_keys)
        free(self.spare_counts)
        free(self.number_of)
        free(self.characters)

    def add(self, const uint8_t[::1] text, const int64_t[::1] ends):
        """Count the n-grams of each part of `text` (parts as in `PieceTrie.encode`)."""
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
        """Return the number of a character, assigned at its first appearance; 0 if there are too many."""
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
        """Return the slot of `key`, or the empty slot in which to store it."""
        cdef Py_ssize_t slot = ((key * <uint64_t>0x9E3779B97F4A7C15) >> 32) & (self.slots - 1)
        while self.keys[slot] != 0 and self.keys[slot] != key:
            slot = (slot + 1) & (self.slots - 1)
        return slot

    cdef void drop_rare(self) noexcept nogil:
        """Drop the rarest n-grams until the table is at most half full, and rehash the others."""
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
        """Return the keys and counts of the n-grams in the table, in arbitrary order. Shape: (n,) each."""
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
        """Return the characters of an n-gram in UTF-8."""
        cdef int place
        characters = [chr(self.characters[(key >> 16 * place) & 0xFFFF]) for place in range(3, -1, -1)
                      if (key >> 16 * place) & 0xFFFF]
        return "".join(characters).encode()


cdef inline Py_ssize_t character_size(const uint8_t* text, Py_ssize_t length, uint32_t* code) noexcept nogil:
    """Return the bytes of the UTF-8 character at `text`, 0 if it is not valid, and write its code point to `code`.

    The valid byte ranges are those of the Unicode Standard, table 3-7.
    """
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
