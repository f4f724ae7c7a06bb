"""Prompt of a model's samples where an export shows how to use it: it must leave room for a reply in the context."""

from __future__ import annotations

from typing import NamedTuple

from gpt_core.generation.generator import prompt_bytes, with_bos
from gpt_core.model.bundle import ModelBundle

PLACEHOLDER = "PROMPT"
MIN_REPLY = 4  # tokens of the context that llama.cpp keeps free of the prompt, too


class ShownPrompt(NamedTuple):
    """Prompt of an example.

    Attributes:
        text: The prompt.
        room: Tokens of the context that it leaves, at least one.
    """

    text: str
    room: int


def shown_prompt(bundle: ModelBundle, prompt: str) -> ShownPrompt:
    """Return a prompt for an example with a model: a placeholder if it is empty or would fill the context."""
    tokenizer = bundle.tokenizer
    room = bundle.settings.seq_len - len(with_bos(tokenizer, tokenizer.encode(prompt_bytes(prompt)).tolist()))
    if prompt == PLACEHOLDER or (prompt and room >= MIN_REPLY):
        return ShownPrompt(prompt, max(1, room))
    return shown_prompt(bundle, PLACEHOLDER)
