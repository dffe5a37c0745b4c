"""Remove or add the padding rows of the vocabulary axes of params."""

import dataclasses

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
