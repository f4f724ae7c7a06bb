"""The token embedding: nearest tokens, and a map in two dimensions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gpt_core.interpret.activations import checked_count
from gpt_core.kernels.arrays import Array, as_ids, not_finite_is_expected
from gpt_core.model.layers.embedding import WTE
from gpt_core.model.layers.layer import Ids
from gpt_core.model.parameters import Parameters


class Neighbors(NamedTuple):
    """Nearest tokens of each of some tokens.

    Attributes:
        ids: Their ids (N, K), the nearest first.
        cosines: Their cosine similarities (N, K): 1 for the same direction, 0 for none in common.
    """

    ids: Ids
    cosines: Array


class EmbeddingMap(NamedTuple):
    """Token embeddings in two dimensions.

    Attributes:
        coordinates: Coordinates of each token (N, 2).
        explained: Fraction of the variance along each axis (2,).
    """

    coordinates: Array
    explained: Array


@not_finite_is_expected
def neighbors(
    parameters: Parameters,
    tokens: ArrayLike,
    count: int = 8,
    candidates: ArrayLike | None = None,
) -> Neighbors:
    """Return the tokens whose embeddings are nearest to those of `tokens`, by cosine similarity.

    cos(a, b) = a · b / (|a| |b|) of rows of wte; the cosine of a row of zeros is 0. As for word vectors in Mikolov et
    al. 2013, "Efficient Estimation of Word Representations in Vector Space".

    Args:
        parameters: Weights of the model.
        tokens: Ids (N,).
        count: Neighbors per token (K); fewer if there are not as many candidates. A token is not its own neighbor.
        candidates: Ids that may be neighbors, such as those that the tokenizer uses; None for all.

    Raises:
        ValueError: An id is not in the vocabulary, or `count` is negative.
    """
    wte, count = parameters[WTE], checked_count("count", count)
    asked = _ids_of_vocabulary(tokens, "tokens", len(wte))
    others = _ids_of_vocabulary(np.arange(len(wte)) if candidates is None else candidates, "candidates", len(wte))
    cosines: Array = _unit_rows(wte[asked]) @ _unit_rows(wte[others]).T  # (N, candidates)
    is_same = asked[:, None] == others[None]
    cosines[is_same] = -np.inf
    count = min(count, int((~is_same).sum(axis=-1).min(initial=len(others))))
    order = np.argsort(-cosines, axis=-1, kind="stable")[:, :count]
    return Neighbors(others[order], np.take_along_axis(cosines, order, axis=-1))


@not_finite_is_expected
def embedding_map(parameters: Parameters, tokens: ArrayLike) -> EmbeddingMap:
    """Return the embeddings of tokens (N,), at least two, along their two directions of largest variance.

    Principal component analysis (Pearson 1901; Hotelling 1933): the eigenvectors of the covariance of the rows. The
    component of largest magnitude of each axis is positive, so that maps of similar weights are alike.

    Raises:
        ValueError: There are fewer than two tokens or channels, or an id is not in the vocabulary.
    """
    wte = parameters[WTE]
    ids = _ids_of_vocabulary(tokens, "tokens", len(wte))
    if len(ids) < 2 or wte.shape[1] < 2:
        raise ValueError(f"tokens: got {len(ids)} ids in {wte.shape[1]} channels, expected at least two of each")
    rows = wte[ids].astype(np.float64)
    rows -= rows.mean(axis=0)
    variances, axes = np.linalg.eigh(rows.T @ rows)  # ascending
    axes = axes[:, :-3:-1]  # (C, 2)
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    total = max(float(variances.sum()), np.finfo(np.float64).tiny)
    return EmbeddingMap((rows @ axes).astype(np.float32), (variances[:-3:-1] / total).astype(np.float32))


def _ids_of_vocabulary(ids: ArrayLike, name: str, vocab_size: int) -> Ids:
    """Return ids (N,). Raises ValueError if one is not in the vocabulary."""
    found = as_ids(ids, name)
    if found.ndim != 1 or (found.size and not 0 <= found.min() <= found.max() < vocab_size):
        got = f"{found.min()} to {found.max()}" if found.ndim == 1 else f"shape {found.shape}"
        raise ValueError(f"{name}: got {got}, expected ids (N,) from 0 to {vocab_size - 1}")
    return found


def _unit_rows(rows: Array) -> Array:
    """Return the rows divided by their norms; rows of zeros stay zero."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), np.float32)
