"""What a step takes besides its state and its examples: seeds, learning rates, weight decay and the schedule.

They are inputs of the compiled step, and not its constants. So runs that differ in them alone have one program, such as
the trials of a search.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from finetune.config import FinetuneConfig
from pretrain.config import ScheduleConfig as PretrainSchedule
from pretrain.devices.mesh import sharding
from pretrain.optim.learning_rates import ScheduleNumbers, schedule_numbers

FIELDS = (
    "seed",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "schedule.warmup_ratio",
    "schedule.warmup_steps",
    "epochs",
    "steps",
)
"""The fields of the config that change these inputs, and not the program."""


class StepInputs(NamedTuple):
    """The inputs; a batch has them under these names."""

    seed: Int[Array, " M"]
    rate: Float[Array, " M"]
    """Each run's peak learning rate."""
    weight_decay: Float[Array, ""]
    schedule: Float[Array, "6"]
    """The `ScheduleNumbers`."""


OF_MEMBERS = StepInputs(0, 0, None, None)  # type: ignore[arg-type]
"""The axis of each input that goes over the runs."""


def step_inputs(config: FinetuneConfig, steps: int) -> dict[str, np.ndarray]:
    """The inputs of all steps of a run.

    Args:
      config: the run's.
      steps: steps of the whole run.

    Raises:
      UserError: the warm-up is longer than the run.
    """
    return {
        "seed": np.array([member.seed for member in config.members], np.int32),
        "rate": np.array([member.learning_rate for member in config.members], np.float32),
        "weight_decay": np.array(config.optimizer.weight_decay, np.float32),
        "schedule": np.array(numbers_of(config, steps), np.float32),
    }


def numbers_of(config: FinetuneConfig, steps: int) -> ScheduleNumbers:
    """The numbers of the schedule of a run with so many steps."""
    share = -int(-config.schedule.warmup_ratio * steps // 1)  # rounded up, as transformers does
    warmup = config.schedule.warmup_steps or share
    return schedule_numbers(
        PretrainSchedule(name=config.schedule.name, warmup_steps=warmup, final_fraction=0.0), steps
    )


def input_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """The layout of each input."""
    axes = StepInputs(("member",), ("member",), (), (None,))  # type: ignore[arg-type]
    return {name: sharding(mesh, each) for name, each in axes._asdict().items()}


def abstract_inputs(inputs: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and layouts of inputs."""
    layouts = input_shardings(mesh)
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=layouts[name])
        for name, array in inputs.items()
    }


def of_member(inputs: Mapping[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """The inputs of one run of several, M = 1."""
    axes = OF_MEMBERS._asdict()
    return {name: array if axes[name] is None else array[index : index + 1] for name, array in inputs.items()}


def taken_from(batch: Mapping[str, Array]) -> tuple[StepInputs, dict[str, Array]]:
    """The inputs of a step, and the rows of its batch."""
    rows = dict(batch)
    return StepInputs(**{name: rows.pop(name) for name in StepInputs._fields}), rows
