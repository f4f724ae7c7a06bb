"""Trie of pieces: longest-match encoding of bytes into token ids, and the folding of the `ascii` tokenizer."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

from gpt_core.tokenizers.part_ends cimport check_room

cdef enum:
    BOS = 1
    EOS = 2
    FIRST_BYTE = 4  # id of the byte 0; byte b has the id FIRST_BYTE + b
    SLICE_BYTES = 4  # of a slice of a word, in `fold_slices`
    NO_PIECE = -1


cdef class PieceTrie:
    """Trie of pieces, with greedy encoding: the longest piece that matches at each position.

    The edges are stored in one open-addressing hash table with the key (state, byte), at most half full, whose size is
    proportional to the total length of the pieces. States 0..255 are the single bytes, so that the root needs no
    lookup. State 0 is never the target of an edge and means "no edge".
    """

    cdef uint64_t* edges  # key << 32 | target state; key = state << 8 | byte; 0: empty slot
    cdef int32_t* id_at  # (states,) id of the piece that ends in the state, or NO_PIECE
    cdef uint32_t shift  # 32 - log2(slots): the hash is the high bits of a product
    cdef uint32_t mask
    cdef uint32_t states

    def __cinit__(self, list pieces, int first_id):
        """Build the trie of unique byte strings of at least 2 bytes, with consecutive ids from `first_id` on."""
        cdef Py_ssize_t room = 256
        cdef Py_ssize_t slots = 1 << 10
        cdef bytes piece
        for piece in pieces:
            room += len(piece)
        if room >= 1 << 24:
            raise ValueError(f"pieces: got {room:,} bytes in total, expected at most {(1 << 24) - 1:,}")
        self.shift = 32 - 10
        while slots < 2 * room:
            slots *= 2
            self.shift -= 1
        self.mask = <uint32_t>(slots - 1)
        self.edges = <uint64_t*>calloc(slots, sizeof(uint64_t))
        self.id_at = <int32_t*>calloc(room, sizeof(int32_t))
        if self.edges == NULL or self.id_at == NULL:
            raise MemoryError("out of memory for the trie of pieces")
        self.states = 256
        memset(self.id_at, 0xFF, room * sizeof(int32_t))
        cdef int32_t next_id = first_id
        for piece in pieces:
            if len(piece) < 2:
                raise ValueError(f"piece: got {piece!r}, expected at least 2 bytes")
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
        """Return the state that `byte` leads to from `state`, or 0."""
        cdef uint32_t key = state << 8 | byte
        cdef uint32_t slot = (key * <uint32_t>0x9E3779B1) >> self.shift
        cdef uint64_t edge
        while True:
            edge = self.edges[slot]
            if edge >> 32 == key or edge == 0:
                return <uint32_t>edge
            slot = (slot + 1) & self.mask

    cdef Py_ssize_t encode_part(self, const uint8_t* text, Py_ssize_t length, int32_t* ids) noexcept nogil:
        """Write the ids of `text`, and return their number, at most `length`."""
        cdef Py_ssize_t at = 0, end, longest
        cdef Py_ssize_t count = 0
        cdef uint32_t state
        cdef int32_t found
        while at < length:
            state = text[at]
            found = FIRST_BYTE + <int32_t>state
            longest = end = at + 1
            while end < length:
                state = self.follow(state, text[end])
                if state == 0:
                    break
                end += 1
                if self.id_at[state] != NO_PIECE:
                    found = self.id_at[state]
                    longest = end
            ids[count] = found
            count += 1
            at = longest
        return count

    def encode(self, const uint8_t[::1] text, const int64_t[::1] ends, int32_t[::1] ids):
        """Encode each part of a text separately: no piece crosses the end of a part.

        Args:
            text: Bytes of all parts. Shape: (n,).
            ends: Offsets at which parts end, ascending; the text after the last one is a part too. Shape: (parts,).
            ids: Output. Shape: (at least n,).

        Returns:
            The number of ids written.
        """
        cdef Py_ssize_t parts = ends.shape[0], length = text.shape[0], part, end, begin = 0, count = 0
        check_room(ends, length, ids.shape[0], length)
        if length == 0:
            return 0
        with nogil:
            for part in range(parts + 1):
                end = ends[part] if part < parts else length
                if end > begin:
                    count += self.encode_part(&text[begin], end - begin, &ids[count])
                begin = end
        return count

    def encode_documents(self, const uint8_t[::1] text, const int64_t[::1] ends, bint is_open, int32_t[::1] ids):
        """Encode documents: `<bos>`, ids, `<eos>` for each.

        Args:
            text: Bytes of all documents. Shape: (n,).
            ends: Offsets at which documents end, ascending. Text after the last one begins a document that the next
                call continues; no `<eos>` is written for it. Shape: (documents,).
            is_open: The text begins inside a document, whose `<bos>` was written by an earlier call.
            ids: Output. Shape: (at least n + 2 * documents + 1,).

        Returns:
            The number of ids written, and whether the last document continues in the next call.
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
                    count += self.encode_part(&text[begin], end - begin, &ids[count])
                if part < parts:
                    ids[count] = EOS
                    count += 1
                    is_open = False
                begin = end
        return count, bool(is_open)


def fold_slices(const uint8_t[::1] text):
    """Fold a text to lower-case ASCII, split it at white space, and cut each word into slices of four bytes.

    Bytes that are not ASCII are dropped first, so that they do not split a word.

    Returns:
        The folded bytes without white space, and the offsets in them at which slices end. Shape: (slices,).
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
            if count - begin == SLICE_BYTES:
                out_ends[slices] = begin = count
                slices += 1
        if count > begin:
            out_ends[slices] = count
            slices += 1
    return folded[:count].tobytes(), ends[:slices].copy()
