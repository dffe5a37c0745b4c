"""The objectives by name, and the traits of each that other code needs before an objective is built."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """What tells objectives apart."""

    hides_tokens: bool
    """Whether it hides tokens, as `config.masking` says, so that a model which has learned it fills blanks."""
    causal: bool
    """Whether a token sees itself and earlier tokens of its document alone."""


TRAITS: Mapping[str, Traits] = {
    "mlm": Traits(hides_tokens=True, causal=False),
    "clm": Traits(hides_tokens=False, causal=True),
}
"""By `config.objective.name`. The objectives themselves are in `pretrain.objective.registry`."""
