"""The phases of a run, and the checks of a config that read no file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from base import schema
from base.errors import UserError
from data.batches import check_data
from data.config import DataConfig
from pretrain.config import LARGEST, PHASE_FIELDS, PhaseConfig, PretrainConfig, check_shared
from pretrain.devices.mesh import BATCH_AXES
from pretrain.models import EncoderConfig
from pretrain.publish.public_names import check_card


@dataclass(frozen=True)
class Phase:
    """Steps start .. stop - 1 of a run, and the settings for these steps."""

    index: int
    start: int
    stop: int
    seq_len: int
    global_batch: int
    grad_accum: int
    masking_rate: float
    data: DataConfig
    objective: str = "mlm"
    """What is learned, by its name in `config.objective`."""
    own: frozenset[str] = frozenset()
    """The fields that the phase sets itself; the others are the run's."""

    def place(self, name: str) -> str:
        """Where a field of this name is set."""
        if name in self.own:
            return f"config.phases[{self.index}].{name}"
        return f"config.{PHASE_FIELDS.get(name, name)}"


def resolve_phases(config: PretrainConfig, epoch_steps: int | None = None) -> tuple[Phase, ...]:
    """The run's phases. If the config lists no phases, one phase spans the run.

    Args:
      config: the run's config.
      epoch_steps: the number of steps that `config.epochs` comes to, where it is set.

    Raises:
      UserError: a phase has no steps, or a run without phases has no steps.
    """
    lengths = (
        [phase.steps for phase in config.phases] if config.phases else [config.steps or epoch_steps or 0]
    )
    phases, start = [], 0
    for index, (phase, steps) in enumerate(zip(config.phases or (PhaseConfig(),), lengths)):
        if not 1 <= steps <= LARGEST:
            name = f"config.phases[{index}].steps" if config.phases else "config.steps"
            raise UserError(f"{name}={steps} should be 1 or more, and at most {LARGEST}")
        phases.append(
            Phase(
                index=index,
                start=start,
                stop=start + steps,
                seq_len=config.seq_len if phase.seq_len is None else phase.seq_len,
                global_batch=config.global_batch if phase.global_batch is None else phase.global_batch,
                grad_accum=config.grad_accum if phase.grad_accum is None else phase.grad_accum,
                masking_rate=config.masking.rate if phase.masking_rate is None else phase.masking_rate,
                data=phase.data or config.data,
                objective=phase.objective or config.objective.name,
                own=frozenset(name for name in PHASE_FIELDS if getattr(phase, name) is not None),
            )
        )
        start += steps
    return tuple(phases)


def saved_phases(config: Mapping[str, Any], step: int) -> tuple[Phase, ...]:
    """The phases of a saved run, from its config as nested dicts and the number of its steps so far."""
    return resolve_phases(schema.restored(PretrainConfig, config), epoch_steps=max(step, 1))


def ends_of_objectives(phases: Sequence[Phase]) -> list[int]:
    """The last step, counted from 1, of each phase whose next phase has another objective."""
    return [phase.stop for phase, following in pairwise(phases) if phase.objective != following.objective]


def objective_at(phases: Sequence[Phase], step: int) -> str:
    """The objective that was learned last after so many steps of a run."""
    return next((phase.objective for phase in phases if step <= phase.stop), phases[-1].objective)


def objective_since(phases: Sequence[Phase], step: int) -> int:
    """The number of steps before `objective_at(phases, step)` began; earlier metrics do not compare with later ones."""
    return max((end for end in ends_of_objectives(phases) if end < step), default=0)


def check_lengths(config: PretrainConfig) -> None:
    """Refuse a config that does not set exactly one of steps, epochs and phases."""
    given = [
        name
        for name, value in (
            ("steps", config.steps or None),
            ("epochs", config.epochs),
            ("phases", config.phases or None),
        )
        if value is not None
    ]
    if len(given) != 1:
        what = (
            f"{' and '.join(f'config.{name}' for name in given)} are set" if given else "none of them is set"
        )
        hint = " (--config.steps=0 unsets steps)" if "steps" in given else ""
        raise UserError(f"set exactly one of config.steps, config.epochs and config.phases; {what}{hint}")
    if config.epochs is not None and config.epochs < 1:
        raise UserError(f"config.epochs={config.epochs} should be 1 or more")


def check_values(config: PretrainConfig) -> None:
    """Refuse values out of their range."""
    check_shared(config)
    positive = {
        "log.every": config.log.every,
        "eval.steps": config.eval.steps,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep": config.checkpoint.keep,
        "max_skipped": config.max_skipped,
        "spike.window": config.spike.window,
        "spike.max_rewinds": config.spike.max_rewinds,
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.eps": config.optimizer.eps,
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise UserError(f"config.{name}={value} should be greater than 0{' and finite' * (value > 0)}")
    check_card(config.card)
    masking = config.masking
    shares = {
        "masking.mask_fraction": masking.mask_fraction,
        "masking.random_fraction": masking.random_fraction,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"config.{name}={share} should be between 0 and 1")
    if config.optimizer.clip_norm < 0:
        raise UserError(
            f"config.optimizer.clip_norm={config.optimizer.clip_norm} should be 0 (does not clip) or more"
        )
    if config.spike.factor and not 1 < config.spike.factor < math.inf:
        raise UserError(
            f"config.spike.factor={config.spike.factor:g} should be 0 (looks for no spikes) or more than 1, and finite"
        )
    if config.spike.skip < 0:
        raise UserError(f"config.spike.skip={config.spike.skip} should be 0 or more")
    if config.eval.every < 0:
        raise UserError(f"config.eval.every={config.eval.every} should be 0 (never) or more")
    if not 0 <= config.eval.masking_rate <= 1:
        raise UserError(
            f"config.eval.masking_rate={config.eval.masking_rate} should be above 0 and at most 1, "
            "or 0 (that of the phase)"
        )
    if masking.mask_fraction + masking.random_fraction > 1:
        raise UserError(
            f"config.masking.mask_fraction={masking.mask_fraction} and "
            f"config.masking.random_fraction={masking.random_fraction} add up to more than 1"
        )


def check_phase(phase: Phase, mesh_sizes: Mapping[str, int]) -> None:
    """Refuse a phase with a value out of its range or a batch that does not divide.

    Args:
      phase: the phase.
      mesh_sizes: devices along each axis of the mesh.
    """
    for name, value in (("global_batch", phase.global_batch), ("grad_accum", phase.grad_accum)):
        if value < 1:
            raise UserError(f"{phase.place(name)}={value} should be 1 or more")
    if not 0 < phase.masking_rate <= 1:
        raise UserError(f"{phase.place('masking_rate')}={phase.masking_rate} should be above 0 and at most 1")
    check_data(phase.data, phase.place("data"))
    if phase.seq_len < 4:
        raise UserError(f"{phase.place('seq_len')}={phase.seq_len} should be 4 or more")
    shards = 1
    for axis in BATCH_AXES:
        shards *= mesh_sizes[axis]
    if phase.global_batch % (shards * phase.grad_accum):
        raise UserError(
            f"{phase.place('global_batch')}={phase.global_batch} should be a multiple of {shards * phase.grad_accum}: "
            f"{shards} devices that share it x {phase.place('grad_accum')}={phase.grad_accum}"
        )
    if phase.global_batch % phase.data.streams:
        raise UserError(
            f"{phase.place('global_batch')}={phase.global_batch} should be a multiple of "
            f"{phase.place('data')}.streams={phase.data.streams}"
        )


def check_length(phase: Phase, encoder: EncoderConfig, config_file: str) -> None:
    """Refuse a phase whose rows are longer than the network has positions for.

    Args:
      phase: the phase.
      encoder: the network.
      config_file: the file that sets the network; empty where config.model does.
    """
    longest, rows = encoder.max_length, f"{phase.place('seq_len')}={phase.seq_len}"
    if phase.seq_len <= longest:
        return
    if config_file:
        raise UserError(f"{rows} should be {longest} or less: {config_file} has no more positions")
    aside = f" ({encoder.model_type} sets {encoder.position_offset} of them aside)" * (
        encoder.position_offset > 0
    )
    raise UserError(
        f"{rows} is too long for config.model.max_position_embeddings={encoder.max_position_embeddings}{aside}; "
        f"set that to {phase.seq_len + encoder.position_offset}, or {phase.place('seq_len')} to {longest} or less"
    )
