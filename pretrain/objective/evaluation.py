"""Evaluation on held-out rows. The rows and the predicted positions are the same in every evaluation."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pretrain.devices.global_batch import global_array, local_rows, to_devices
from pretrain.models import Model
from pretrain.objective.objective import Objective
from pretrain.objective.token_frequencies import FREQUENCY_LOSS, frequency_loss
from pretrain.objective.train_step import make_eval_step
from pretrain.phases import Phase


class Evaluator:
    """Evaluates params of one phase's shape on the same rows each time."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        phase: Phase,
        mesh: Mesh,
        rows: Mapping[str, np.ndarray],
        counts: np.ndarray | None = None,
    ):
        """Keep the held-out rows ready to feed.

        Args:
          model: the network.
          objective: what is evaluated.
          phase: its batches.
          mesh: the devices.
          rows: tokens, segments and positions, int32 [R, S], the same on every process.
          counts: how often each token occurs in training text, int [V]; None computes no loss of token frequencies.
        """
        self._objective = objective
        self._step = jax.jit(make_eval_step(model, objective))
        self._compiled: jax.stages.Compiled | None = None
        self._mesh = mesh
        self._batch = phase.whole.global_batch
        self._count = rows["tokens"].shape[0]
        self._of_frequencies: dict[str, float] = {}
        if counts is not None:
            predicted = objective.may_be_predicted({name: jnp.asarray(array) for name, array in rows.items()})
            tokens = rows["tokens"][np.asarray(predicted)]
            self._of_frequencies = {FREQUENCY_LOSS: frequency_loss(tokens, counts)} if tokens.size else {}
        missing = -self._count % self._batch
        # Rows added to fill the last batch are padding (segment 0): nothing in them is predicted.
        self._rows = {name: np.pad(array, ((0, missing), (0, 0))) for name, array in rows.items()}

    @property
    def batches(self) -> int:
        """Batches of one evaluation."""
        return math.ceil(self._count / self._batch)

    @property
    def compiled(self) -> bool:
        """Whether the step is compiled."""
        return self._compiled is not None

    def compile(self, params: Any) -> None:
        """Compile the step ahead of time."""
        self._compiled = self._step.lower(params, *self._batch_from(0)).compile()

    def __call__(self, params: Any, average: Any = None) -> dict[str, float]:
        """Return the objective's metrics over all rows: eval/loss (nats a prediction), eval/accuracy, ...

        eval/frequency_loss is what token frequencies alone have.

        Args:
          params: the weights.
          average: an average of the weights, in the layout of moments; its metrics are eval/average_loss and
            eval/average_accuracy.
        """
        metrics = {f"eval/{name}": value for name, value in self._evaluate(params).items()}
        if average is not None:
            own = self._evaluate(jax.device_put(average, jax.tree.map(lambda leaf: leaf.sharding, params)))
            metrics |= {f"eval/average_{name}": own[name] for name in ("loss", "accuracy")}
        return metrics | self._of_frequencies

    def _evaluate(self, params: Any) -> dict[str, float]:
        if self._compiled is None:
            self.compile(params)
        assert self._compiled is not None
        starts = range(0, self.batches * self._batch, self._batch)
        sums = [self._compiled(params, *self._batch_from(first)) for first in starts]
        fetched = jax.device_get(sums)
        total = {name: float(sum(np.float64(part[name]) for part in fetched)) for name in fetched[0]}
        return dict(self._objective.summarise(total))

    def _batch_from(self, first: int) -> tuple[dict[str, jax.Array], jax.Array]:
        """The batch whose first row has the number `first`, and the numbers of its rows."""
        mine = local_rows(self._mesh, self._batch)
        ids = first + np.array(mine, np.int32)
        part = {name: array[ids] for name, array in self._rows.items()}
        row_ids = global_array(ids, self._mesh, ("batch",), mine, self._batch)
        return to_devices(part, self._mesh, self._batch), row_ids
