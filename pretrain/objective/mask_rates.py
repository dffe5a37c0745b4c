"""The mask rate over a run: a number of levels, each with a first step and a rate.

A rate that falls from 30% to 15% is that of Yang et al. 2023 ("Learning Better Masking for Better Language Model
Pre-training", arXiv:2212.04755; Ankner et al. 2024, arXiv:2305.15096) and of GPT-BERT (Charpentier and Samuel 2024).
Rates are whole 65536ths, so that every device computes the same number of predictions.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Int

from pretrain.config import MaskingConfig

ONE = 1 << 16
"""The rate 1."""
LONGEST_ROW = ONE - 1
"""The longest row whose products with a rate fit in 32 bits."""
LINEAR_LEVELS = 256
"""Levels of a linear curve: each is 1/256 of the way, which is less than a token of most rows."""


@dataclass(frozen=True)
class MaskRates:
    """A rate for each step."""

    starts: tuple[int, ...]
    """The first step of each level, ascending."""
    parts: tuple[int, ...]
    """The rate of each level, in 65536ths."""

    def within(self, start: int, stop: int) -> "MaskRates":
        """The levels of the steps start .. stop - 1."""
        last = sum(first <= start for first in self.starts) - 1
        levels = [
            (max(first, start), part)
            for first, part in list(zip(self.starts, self.parts))[last:]
            if first < stop
        ]
        starts, parts = zip(*levels, strict=True)
        return MaskRates(starts, parts)

    @property
    def largest(self) -> float:
        """The largest rate."""
        return max(self.parts) / ONE

    @property
    def ends(self) -> tuple[float, float]:
        """The first rate and the last one."""
        return self.parts[0] / ONE, self.parts[-1] / ONE

    def predictions(self, seq_len: int) -> tuple[int, int, int]:
        """Predictions of a row of S maskable tokens: the most, and those of the first and the last step."""
        counts = [_count(part, seq_len) for part in self.parts]
        return max(counts), counts[0], counts[-1]

    def budgets(self, step: Int[Array, ""], maskable: Int[Array, "B"]) -> Int[Array, "B"]:
        """The number of predictions of each row at a step.

        Args:
          step: of the run, from 0.
          maskable: tokens of each row that may be predicted.
        """
        level = jnp.sum(step >= jnp.array(self.starts[1:], jnp.int32), dtype=jnp.int32)
        part, tokens = jnp.array(self.parts, jnp.uint32)[level], maskable.astype(jnp.uint32)
        share = (part * tokens + ONE // 2) >> 16
        return jnp.minimum(jnp.maximum(share, 1), tokens).astype(jnp.int32)


def rates_of_run(masking: MaskingConfig, steps: int) -> MaskRates | None:
    """The rates of a run, or None if its rate is constant.

    Args:
      masking: the config.
      steps: steps of the run.
    """
    if masking.rate_shape == "constant":
        return None
    levels = min(LINEAR_LEVELS if masking.rate_shape == "linear" else masking.rate_levels, steps)
    way = [index / max(levels - 1, 1) for index in range(levels)]
    return MaskRates(
        starts=tuple(-(-index * steps // levels) for index in range(levels)),
        parts=tuple(round(ONE * (masking.rate + (masking.final_rate - masking.rate) * p)) for p in way),
    )


def _count(part: int, tokens: int) -> int:
    return min(max((part * tokens + ONE // 2) >> 16, 1), tokens)
