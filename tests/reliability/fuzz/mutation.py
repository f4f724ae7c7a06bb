"""Structured mutations of JSON: one value is replaced by an edge case.

A fuzzer that changes bytes rarely gets past a decoder written in C, whose branches it cannot see.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

EDGE_CASES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 255, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, (1 << 53) + 1, (1 << 63) - 1,
    1 << 64, -(1 << 63), 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, True, False, None, "", "x", "\0", "\x1b[2J",
    "é" * 40, "x" * 5000, [], {}, [0], {"a": 0}, [[[]]], "latest", "1",
)  # fmt: skip
_OBJECT = re.compile(rb"\{.*\}", re.DOTALL)


def mutated_json(data: bytes, draw: random.Random) -> bytes | None:
    """Return `data` with one value changed in its outermost JSON object or JSON line; None if it holds no JSON."""
    found = _OBJECT.search(data[: data.rfind(b"}", 0, 16 << 10) + 1])
    if found is None:
        return None
    start, end = found.span()
    while start < end and (at := data.find(b"\n", start, end)) >= 0:  # JSON lines: choose one
        start, end = (at + 1, end) if draw.random() < 0.5 else (start, at)
    try:
        value = json.loads(data[start:end])
        changed = json.dumps(changed_value(value, draw), separators=(",", ":"), ensure_ascii=draw.random() < 0.5)
    except (ValueError, RecursionError):
        return None
    return data[:start] + changed.encode("utf-8", "surrogatepass") + data[end:]


def changed_value(value: Any, draw: random.Random) -> Any:
    """Return `value` with one item replaced, removed or added; JSON inside a string is changed as JSON."""
    if isinstance(value, dict) and value:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.05:
            return {name: inner for name, inner in value.items() if name != key}
        if kind < 0.1:
            return value | {draw.choice(("", "x", "layers", key + "x")): draw.choice(EDGE_CASES)}
        return value | {key: changed_value(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], changed_value(value[at], draw), *value[at + 1 :]]
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.dumps(changed_value(json.loads(value), draw), separators=(",", ":"))
        except ValueError:
            pass
    if isinstance(value, int) and draw.random() < 0.3:
        return value + draw.choice((-1, 1, 4, 8, 64))
    return draw.choice(EDGE_CASES)
