"""Scores of an encoder's vectors on pairs of texts, for `finetune.evaluate`; nothing is trained."""

from collections.abc import Collection

import numpy as np

from base.errors import UserError
from data.labelled.examples import Examples, LabelledData
from data.labelled.open import open_labelled
from finetune.config import FinetuneConfig
from finetune.embed import Vectors
from finetune.kinds.embedding import unit_vectors
from finetune.population.evaluation import Scores, scores_of

PARTS: Collection[str] = ("evaluations",)


def evaluate_vectors(config: FinetuneConfig, model: str) -> tuple[LabelledData, Scores]:
    """The pairs to evaluate on, and the metrics of an encoder.

    Args:
      config: its data, embedding and eval.batch are read.
      model: a run's workdir, a model's folder, or a hub id.

    Raises:
      UserError: no pairs to evaluate on, or no such model.
    """
    if config.inference != "jax":
        raise UserError(
            f"config.inference={config.inference!r}: the vectors of an encoder are computed by jax here; "
            "set config.inference='jax'"
        )
    hold_out = bool(config.data.train) or config.data.source == "hub"
    data = open_labelled(config.data, config.task, PARTS, hold_out=hold_out, pairs=True)
    if not data.evaluations:
        raise UserError(f"{data.task.title} has no pairs to evaluate on; set config.data.validation")
    pairs = next(iter(data.evaluations.values()))
    assert isinstance(pairs, Examples) and pairs.second is not None and pairs.labels is not None
    vectors = Vectors(model, pooling=config.embedding.pooling, batch=config.eval.batch)
    both = np.concatenate([vectors(pairs.first), vectors(pairs.second)], axis=1)
    logits = unit_vectors(both).reshape(both.shape) / config.embedding.temperature**0.5
    return data, scores_of(data.task, logits, pairs.labels)
