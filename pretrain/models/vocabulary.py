"""The rows of the vocabulary axes of params: padding rows, and the rows of another tokenizer's tokens."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from pretrain.models.config import EncoderConfig
from pretrain.models.model import build
from pretrain.models.module_shapes import Params


def with_rows(config: EncoderConfig, params: Params, rows: int) -> Params:
    """Params whose vocabulary axes have `rows` rows: further rows are cut off, and missing rows are 0.

    Args:
      config: the network, whatever its padding.
      params: its params, numpy or jax arrays.
      rows: `config.vocab_size` for the tokens alone, as transformers has them; `config.vocab_rows` for what is trained.
    """
    model = build(dataclasses.replace(config, attention="xla"))

    def fit(array: jax.Array | np.ndarray, axes: tuple[str | None, ...]) -> jax.Array | np.ndarray:
        if "vocab" not in axes:
            return array
        axis = axes.index("vocab")
        if array.shape[axis] == rows:
            return array
        missing = max(rows - array.shape[axis], 0)
        kept = array[(slice(None),) * axis + (slice(rows),)]
        return (
            np.pad(kept, [(0, missing * (index == axis)) for index in range(kept.ndim)]) if missing else kept
        )

    fitted: Params = jax.tree.map(fit, params, model.logical_axes())
    return fitted


def with_tokens(
    config: EncoderConfig, params: Params, sources: Sequence[Sequence[int]], rows: int | None = None
) -> Params:
    """Params whose vocabulary axes have the rows of other tokens: each is the mean of rows that are there.

    A token with one source takes its row as it is. The mean of the pieces of a token is the start of its embedding in
    Gee et al. 2022 (fast vocabulary transfer). A token without a source takes the mean of all rows.

    Args:
      config: the network of `params`.
      params: its params, numpy arrays without padding rows.
      sources: for each new token, the ids of the tokens whose rows it starts from.
      rows: number of new rows, which may be more than the tokens; None is as many.
    """
    model = build(dataclasses.replace(config, attention="xla", vocab_multiple=1))
    mean = config.vocab_size  # a row after the last one
    ids = [list(each) or [mean] for each in (*sources, *((),) * ((rows or 0) - len(sources)))]
    counts = np.array([len(each) for each in ids])
    flat, starts = np.concatenate(ids), np.cumsum(counts) - counts

    def move(array: np.ndarray, axes: tuple[str | None, ...]) -> np.ndarray:
        if "vocab" not in axes:
            return array
        axis = axes.index("vocab")
        known = np.moveaxis(array, axis, 0)
        known = np.concatenate([known, known.mean(0, keepdims=True)])
        sums = np.add.reduceat(known[flat], starts)
        return np.moveaxis(sums / counts.astype(sums.dtype).reshape(-1, *[1] * (sums.ndim - 1)), 0, axis)

    moved: Params = jax.tree.map(move, params, model.logical_axes())
    return moved
