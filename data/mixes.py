"""Documents of several sources, drawn by weight.

The weights may change at a phase if all members are prepared: each member then keeps its place. The window that has
begun is read to its end by the old weights, so that a run that is resumed there reads the same documents.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data.config import DataConfig
from data.document_counts import Counts
from data.document_protocol import Document, Documents
from data.prepared.source import PreparedSource
from data.random_orders import WeightedDraws
from data.source_protocol import Source


def keeps_its_place(config: DataConfig) -> bool:
    """Whether a mix with other weights is the same corpus: all members are prepared."""
    return config.source == "mix" and all(member.source == "prepared" for member in config.mix)


def shares(config: DataConfig, sources: Sequence[Source]) -> list[float]:
    """The share of each source in the documents that are drawn, not normalised: weight x documents ^ temperature."""
    if config.source != "mix":
        return [1.0]
    sizes = [len(source) if isinstance(source, PreparedSource) else 1 for source in sources]
    return [member.weight * size**config.temperature for member, size in zip(config.mix, sizes, strict=True)]


class MixDraws:
    """Draw number n of a stream, by the weights in force there; each depends on the key and n alone."""

    def __init__(
        self,
        weights: list[float],
        key: tuple[int | str, ...],
        start: Mapping[str, Any] | None,
        end: Mapping[str, Any] | None,
    ):
        """Draw by `weights`, but in a window that has begun, from position `start` to `end`, by those of `start`."""
        self._now, self._until = weights, end["draw"] if start and end else 0
        self._before: list[float] = (start or {}).get("weights", weights)
        self._draws = WeightedDraws(weights, *key)
        self._begun = WeightedDraws(self._before, *key)

    def __getitem__(self, number: int) -> int:
        """The member of draw `number`."""
        return (self._begun if number < self._until else self._draws)[number]

    def weights(self, number: int) -> list[float]:
        """The weights in force at draw `number`."""
        return self._before if number < self._until else self._now


class MixedDocuments:
    """Draws documents from several sources by weight. Each source has its own epochs; the mix has none."""

    def __init__(
        self, members: Sequence[Documents], draws: MixDraws, start: int, *, with_weights: bool = False
    ):
        """Start at draw number `start`; `with_weights` if positions hold the weights, which may change."""
        self._members = members
        self._draws = draws
        self._next = start
        self._with_weights = with_weights

    def read(self, counts: Counts) -> Document:
        """See `Documents`; never None."""
        member = self._members[self._draws[self._next]]
        self._next += 1
        while (text := member.read(counts)) is None:
            pass
        return text

    def position(self) -> dict[str, Any]:
        """Number of the next draw, the members' positions, and perhaps the weights of that draw."""
        weights = {"weights": self._draws.weights(self._next)} if self._with_weights else {}
        return {"draw": self._next, "members": [member.position() for member in self._members], **weights}
