"""The phases of a run, and the checks of a config that read no file."""

import dataclasses
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
from pretrain.models.family_fields import ROTARY, has_own
from pretrain.objective.mask_rates import LINEAR_LEVELS, LONGEST_ROW, MaskRates, rates_of_run
from pretrain.publish.public_names import check_card


@dataclass(frozen=True)
class Phase:
    """Steps start .. stop - 1 of a run, and the settings for these steps."""

    index: int
    """Its place among the run's phases."""
    start: int
    stop: int
    seq_len: int
    global_batch: int
    grad_accum: int
    masking_rate: float
    """The largest mask rate of its steps."""
    data: DataConfig
    objective: str = "mlm"
    """What is learned, by its name in `config.objective`."""
    own: frozenset[str] = frozenset()
    """The fields that the phase sets itself; the others are the run's."""
    number: int = 0
    """Its place in `config.phases`. The stretches of a batch warm-up have the number of their phase."""
    mask_rates: MaskRates | None = None
    """The mask rate of each step; None if it is constant."""
    learning_rate: float = 0.0
    """Peak learning rate."""
    schedule: str | None = None
    """Shape of the learning rate over the whole phase; None is the run's over the run."""
    global_rope_theta: float | None = None
    """Rotary base of global layers; None is that of the run's network. So is the next."""
    local_rope_theta: float | None = None
    of: "Phase | None" = None
    """For a stretch of a batch warm-up, the phase that it belongs to, with all of its steps and rows."""

    @property
    def whole(self) -> "Phase":
        """The phase with all of its steps: itself, or the phase whose batch warm-up it belongs to."""
        return self.of or self

    def place(self, name: str) -> str:
        """Where a field of this name is set."""
        if name == "global_batch" and self.global_batch < self.whole.global_batch:
            return "config.batch_warmup_from"
        if name in self.own:
            return f"config.phases[{self.number}].{name}"
        return f"config.{PHASE_FIELDS.get(name, name)}"

    def network(self, encoder: EncoderConfig) -> EncoderConfig:
        """The run's network with the rotary bases of this phase.

        Raises:
          UserError: the family has no such field.
        """
        bases = {name: getattr(self, name) for name in ROTARY if getattr(self, name) is not None}
        for name, base in bases.items():
            if not has_own(encoder, name):
                raise UserError(
                    f"{self.place(name)}={base:g} has no effect: {encoder.model_type} has no such field; unset it"
                )
        return encoder.with_own(**bases) if bases else encoder


UNCOUNTED = LINEAR_LEVELS
"""Stands in for the steps of `config.epochs` before they are counted: enough for both ends of a curve of mask rates."""


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
    for index, steps in enumerate(lengths):
        if not 1 <= steps <= LARGEST:
            name = f"config.phases[{index}].steps" if config.phases else "config.steps"
            raise UserError(f"{name}={steps} should be 1 or more, and at most {LARGEST}")
    rates, phases, start = rates_of_run(config.masking, sum(lengths)), list[Phase](), 0
    for index, (phase, steps) in enumerate(zip(config.phases or (PhaseConfig(),), lengths)):
        phases.append(_phase(config, phase, index, start, start + steps, rates))
        start += steps
    stretches = [*_batch_warmup(config, phases[0]), *phases[1:]]
    return tuple(dataclasses.replace(each, index=index) for index, each in enumerate(stretches))


def _phase(
    config: PretrainConfig, phase: PhaseConfig, number: int, start: int, stop: int, rates: MaskRates | None
) -> Phase:
    """A phase of the config; `rates` are the mask rates of the run."""
    data = phase.data or config.data
    mask_rates = rates.within(start, stop) if rates and phase.masking_rate is None else None
    constant = config.masking.rate if phase.masking_rate is None else phase.masking_rate
    peak = config.optimizer.learning_rate if phase.learning_rate is None else phase.learning_rate
    return Phase(
        index=number,
        start=start,
        stop=stop,
        seq_len=config.seq_len if phase.seq_len is None else phase.seq_len,
        global_batch=config.global_batch if phase.global_batch is None else phase.global_batch,
        grad_accum=config.grad_accum if phase.grad_accum is None else phase.grad_accum,
        masking_rate=mask_rates.largest if mask_rates else constant,
        data=data if phase.packing is None else dataclasses.replace(data, packing=phase.packing),
        objective=phase.objective or config.objective.name,
        own=frozenset(name for name in PHASE_FIELDS if getattr(phase, name) is not None),
        number=number,
        mask_rates=mask_rates,
        learning_rate=peak,
        schedule=phase.schedule,
        global_rope_theta=phase.global_rope_theta,
        local_rope_theta=phase.local_rope_theta,
    )


def _batch_warmup(config: PretrainConfig, phase: Phase) -> list[Phase]:
    """The first phase of a run, in stretches whose batches grow; each has as many steps (Warner et al. 2024)."""
    steps, rows = config.batch_warmup_steps, config.batch_warmup_from
    if not steps:
        return [phase]
    if not 1 <= rows < phase.global_batch:
        raise UserError(
            f"config.batch_warmup_from={rows} should be 1 or more, and less than "
            f"{phase.place('global_batch')}={phase.global_batch}"
        )
    sizes = [rows]
    while sizes[-1] * 2 < phase.global_batch:
        sizes.append(sizes[-1] * 2)
    if not len(sizes) <= steps < phase.stop:
        raise UserError(
            f"config.batch_warmup_steps={steps} should be {len(sizes)} or more, one for each of the batches of "
            f"{', '.join(map(str, sizes))} rows, and less than the {phase.stop} steps of the first phase"
        )
    ends = [round(steps * number / len(sizes)) for number in range(len(sizes) + 1)]
    warming = [
        dataclasses.replace(
            phase,
            start=start,
            stop=stop,
            global_batch=size,
            grad_accum=_micro_batches(phase, size),
            of=phase,
        )
        for size, (start, stop) in zip(sizes, pairwise(ends))
    ]
    return [*warming, dataclasses.replace(phase, start=steps, of=phase)]


def _micro_batches(phase: Phase, rows: int) -> int:
    """The fewest micro-batches of a smaller batch that are no larger than those of the phase."""
    fewest = max(1, -(-phase.grad_accum * rows // phase.global_batch))
    return next((count for count in range(fewest, rows + 1) if rows % count == 0), fewest)


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
    if config.epochs is not None and config.batch_warmup_steps:
        raise UserError("a batch warm-up needs a number of steps: set config.steps instead of config.epochs")


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
        "masking.final_rate": masking.final_rate,
        **({} if masking.rate_shape == "constant" else {"masking.rate": masking.rate}),
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"config.{name}={share} should be between 0 and 1")
    if masking.rate_shape != "constant" and not max(masking.rate, masking.final_rate):
        raise UserError("config.masking.rate and config.masking.final_rate are both 0; one should be above 0")
    if masking.rate_levels < 2:
        raise UserError(f"config.masking.rate_levels={masking.rate_levels} should be 2 or more")
    if config.batch_warmup_steps < 0:
        raise UserError(f"config.batch_warmup_steps={config.batch_warmup_steps} should be 0 (none) or more")
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
    if phase.mask_rates and not phase.masking_rate:
        raise UserError(
            f"the mask rate is 0 in all of config.phases[{phase.number}]: raise config.masking.rate or "
            f"config.masking.final_rate, or set config.phases[{phase.number}].masking_rate"
        )
    if not 0 < phase.masking_rate <= 1:
        raise UserError(f"{phase.place('masking_rate')}={phase.masking_rate} should be above 0 and at most 1")
    for name in ("learning_rate", *ROTARY):
        value = getattr(phase, name)
        if name in phase.own and not 0 < value < math.inf:
            raise UserError(f"{phase.place(name)}={value:g} should be greater than 0 and finite")
    check_data(phase.data, phase.place("data"))
    if phase.seq_len < 4:
        raise UserError(f"{phase.place('seq_len')}={phase.seq_len} should be 4 or more")
    if phase.mask_rates and phase.seq_len > LONGEST_ROW:
        raise UserError(
            f"{phase.place('seq_len')}={phase.seq_len} should be {LONGEST_ROW} or less with a "
            "config.masking.rate_shape other than constant"
        )
    shards = math.prod(mesh_sizes[axis] for axis in BATCH_AXES)
    batch, parts = (f"{phase.place(name)}={getattr(phase, name)}" for name in ("global_batch", "grad_accum"))
    if phase.global_batch < phase.whole.global_batch:
        doubled = "config.batch_warmup_from, then twice as many"
        batch = f"a batch of {phase.global_batch} rows in the batch warm-up ({doubled})"
        parts = f"{phase.grad_accum} micro-batches"
    if phase.global_batch % (shards * phase.grad_accum):
        raise UserError(
            f"{batch} should be a multiple of {shards * phase.grad_accum}: {shards} devices that share it x {parts}"
        )
    if phase.global_batch % phase.data.streams:
        raise UserError(f"{batch} should be a multiple of {phase.place('data')}.streams={phase.data.streams}")


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
