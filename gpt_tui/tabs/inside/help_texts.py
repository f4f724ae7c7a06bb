"""Help texts of the views, by name: what is seen, how to read it, and one thing to try."""

from __future__ import annotations

HELP: dict[str, str] = {
    "tokens": "Tokens: the text cut into the model's tokens. The background of each is its surprise, -log2 p: how "
    "many bits the model lacked to know it, 0 for a token that it was sure of. The list shows what the model expected "
    "in the place of the token under the cursor. Rank 1 means that the token was the most probable one; entropy is how "
    "undecided the model was, whatever came. Try: find the first letters of words. They are surprising, and the rest "
    "of the word is not: the model has learned to spell before it has learned what to say. Enter moves to the list; "
    "Enter on one of its tokens generates from there.",
}
