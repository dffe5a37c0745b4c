"""The scores of a pretrained model on held-out text, as the hub shows them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data.config import SourceConfig
from pretrain.publish.card_writer import Scores
from pretrain.reports.metric_writer import Line


def measured_on(
    task: str,
    config: Mapping[str, Any],
    sources: Sequence[SourceConfig],
    datasets: Sequence[str],
    measured: Sequence[tuple[str, float, str | None]],
) -> Scores:
    """The scores on held-out documents, with the data set of the hub that these are of, where there is one.

    Args:
      task: what is done, in words.
      config: the run's config, as nested dicts.
      sources: those that the run has read.
      datasets: ids on the hub among them.
      measured: as in `Scores.metrics`.
    """
    named = [source for source in sources if source.name in datasets]
    parts = {(source.name, source.subset, source.split, source.revision) for source in named}
    _, subset, split, revision = next(iter(parts)) if len(parts) == 1 else ("", "", "", "")
    return Scores(
        task=task,
        dataset=datasets[0] if datasets else config["data"]["source"],
        title="held-out documents",
        metrics=measured,
        config=subset or None,
        split=split or None,
        revision=revision or None,
    )


def perplexity(line: Line, group: str) -> float:
    """exp of the loss, over predicted tokens."""
    loss = line[f"{group}/loss"]
    return math.exp(loss) if loss < 700 else math.inf
