"""The checks of a config for a TPU pod, and the compiler's estimate of a training step's memory and time there.

Nothing of it needs a corpus, a workdir or a TPU; `check` needs no compiler either. `plan_step` compiles the very step
that `pretrain.train` runs, for the devices that libtpu describes and with the choices that a run makes on a TPU.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.experimental import topologies
from jax.sharding import Mesh

from base.errors import UserError
from base.set_fields import Given
from base.tpu_types import GIB, TpuSlice
from pretrain import origin
from pretrain.checks import TO_COME, check_compiler, check_fields, check_steps, checked_model
from pretrain.config import MeshConfig, PretrainConfig
from pretrain.devices.compiler import compile_step
from pretrain.devices.flops import StepWork
from pretrain.devices.global_batch import abstract_batch
from pretrain.devices.mesh import BATCH_AXES, make_mesh, mesh_sizes
from pretrain.job import NOTHING_SET
from pretrain.models import EncoderConfig, Model, build
from pretrain.objective.masking import MaskingTables
from pretrain.objective.objective import Objective, full_rows
from pretrain.objective.registry import training_objective
from pretrain.objective.train_step import lower, make_train_step
from pretrain.optim.averages import averaged
from pretrain.optim.batch_scaling import scaled_by_batch
from pretrain.optim.learning_rates import schedule_of_phases
from pretrain.optim.optimizers import make_optimizer
from pretrain.optim.train_state import TrainState, abstract_state, dropout_generator
from pretrain.phases import Phase, resolve_phases
from pretrain.plan.program import Program, read_program
from pretrain.reports.start_summary import bytes_per_device
from tokenizer.load import load as load_tokenizer

PLATFORM = "tpu"
LONG_RUN = 1_000_000
"""A placeholder for an unknown number of steps. It is compiled into the schedule, and costs nothing there."""


@dataclass(frozen=True)
class Pod:
    """What a run is planned for: one slice of a TPU, or several of the same type."""

    slices: int
    slice: TpuSlice

    @property
    def name(self) -> str:
        """As it is asked for: v4-32, 2x v5litepod-256."""
        return (f"{self.slices}x " if self.slices > 1 else "") + self.slice.accelerator

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.slices * self.slice.devices

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * self.slice.chips

    @property
    def hosts(self) -> int:
        """Machines, and so processes of a run."""
        return self.slices * self.slice.hosts

    @property
    def extent(self) -> str:
        """Its chips and hosts in words."""
        return " on ".join(
            f"{number} {name}{'s' * (number > 1)}"
            for number, name in ((self.chips, "chip"), (self.hosts, "host"))
        )


@dataclass(frozen=True)
class Checked:
    """A config that can run on a pod, as far as can be said without a compiler."""

    config: PretrainConfig
    pod: Pod
    mesh_sizes: dict[str, int]
    encoder: EncoderConfig
    """The network's fields, with the attention kernel that the config names."""
    model: Model
    """The network as it runs on the pod."""
    phases: tuple[Phase, ...]
    """The run's phases; their number of steps is made up where `steps_known` is False."""
    objectives: tuple[Objective, ...]
    """What each phase learns."""
    steps_known: bool


@dataclass(frozen=True)
class StepPlan:
    """What a step of a phase takes; memory is of one JAX device, and cycles are the compiler's estimate."""

    phase: Phase
    params: int
    """Bytes of parameters."""
    optimizer: int
    """Bytes of the optimiser's state."""
    temporary: int | None
    """Bytes of activations and scratch space, and of the batch; None where it does not fit."""
    obstacle: str
    """If it does not fit: the memory that it needs, and the memory that there is. Empty if it fits."""
    model_flops: float
    """FLOPs of the step that count towards MFU, of all devices (`pretrain.devices.flops`), rows being full."""
    xla_flops: float
    """FLOPs that XLA counts in the step before compiling, of all devices: everything, without recomputation."""
    program: Program | None
    """What the compiled program says of itself; None where it does not fit."""
    seconds: float
    """The program's estimated cycles at the pod's clock; NaN where it does not fit."""
    whole_seconds: float
    """The same with the least time of what has no estimate, exchanges too; NaN where it does not fit."""

    @property
    def memory(self) -> int:
        """Bytes in all, where it fits."""
        return self.params + self.optimizer + (self.temporary or 0)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.phase.global_batch * self.phase.seq_len


def check(config: PretrainConfig, pod: Pod, corpus_tokens: float = 0, given: Given = NOTHING_SET) -> Checked:
    """Refuse a config that cannot run on a pod, for a reason that shows without a compiler.

    Args:
      config: the run.
      pod: where it is to run.
      corpus_tokens: tokens of the corpus, for a run of so many epochs; 0 is not known.
      given: the fields of the config that were set, and where.

    Raises:
      UserError: what is wrong, and what would be right.
    """
    check_fields(config)
    config = origin.settled_with_origin(config, epath.Path("."), given)[1]
    sizes = mesh_sizes(config.mesh, pod.devices, pod.slices)
    steps = math.ceil((config.epochs or 0) * corpus_tokens / (config.global_batch * config.seq_len))
    known = config.epochs is None or steps > 0
    phases = resolve_phases(config, epoch_steps=steps or max(LONG_RUN, 10 * config.schedule.warmup_steps))
    check_steps(config, phases, sizes, known=known)
    check_compiler(config, sizes, pod.slice.generation)
    for phase in phases:
        check_streams(phase, pod, sizes)
    encoder, tables, separator = _network(config)
    model = checked_model(config, phases, encoder, PLATFORM)
    objectives = tuple(training_objective(phase, tables, separator) for phase in phases)
    return Checked(config, pod, sizes, encoder, model, phases, objectives, known)


def check_streams(phase: Phase, pod: Pod, sizes: dict[str, int]) -> None:
    """Refuse streams that cannot be shared out among the pod's hosts, each of which reads some streams whole.

    The mesh follows a pod's interconnect. So the rows of a host need not be adjacent; the rows of a device are.
    """
    shares = math.prod(sizes[axis] for axis in BATCH_AXES)
    if pod.hosts > 1 and phase.data.streams % shares:
        nearest = next(
            (n for n in range(shares, phase.global_batch + 1, shares) if phase.global_batch % n == 0), shares
        )
        raise UserError(
            f"config.data.streams={phase.data.streams} should be a multiple of the {shares} devices that share a batch "
            f"on {pod.hosts} hosts, and divide config.global_batch={phase.global_batch}: {nearest}, say"
        )


def _network(config: PretrainConfig) -> tuple[EncoderConfig, MaskingTables, int]:
    """The network, the masking's tables and the separator, of a tokenizer that is there or one still to be trained."""
    if config.tokenizer.path:
        tokenizer = load_tokenizer(config.tokenizer.path)
        encoder = origin.network(config, tokenizer.vocab_size, tokenizer.special)
        return encoder, MaskingTables.build(config.masking, tokenizer), tokenizer.special.sep
    size = config.tokenizer.vocab_size
    marks = np.zeros(size, bool) if config.masking.whole_word else None
    tables = MaskingTables(
        mask_fraction=config.masking.mask_fraction,
        random_fraction=config.masking.random_fraction,
        mask_id=TO_COME.mask,
        special_ids=tuple(sorted(dataclasses.astuple(TO_COME))),
        vocab_size=size,
        word_starts=marks,
        word_breaks=marks,
    )
    return origin.network(config, size, TO_COME), tables, TO_COME.sep


def require_compiler() -> None:
    """Refuse to go on without libtpu.

    Raises:
      UserError: it is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "a plan is compiled with libtpu, which is not installed: pip install -c constraints.txt -e .[plan]; "
            "--check does what needs no compiler"
        )


def pod_mesh(checked: Checked) -> Mesh:
    """The mesh of the pod's devices, as libtpu describes them."""
    one = checked.pod.slice
    options: dict[str, object] = {"chip_config_name": "megacore"} if one.generation == "v4" else {}
    if one.hosts == 1 and one.generation in ("v5e", "v6e"):  # libtpu takes hosts of 2x2 chips for granted
        sides = [int(side) for side in one.topology.partition(":")[2].split("x")]
        options["chips_per_host_bounds"] = (*sides, 1)
    if checked.pod.slices > 1:
        options["num_slices"] = checked.pod.slices
    with quiet_stderr():
        described = topologies.get_topology_desc(topology_name=one.topology, platform=PLATFORM, **options)
    return make_mesh(checked.config.mesh, described.devices)


def plan_steps(checked: Checked) -> tuple[StepPlan, ...]:
    """The plan of each phase; phases whose steps are the same are compiled once."""
    mesh = pod_mesh(checked)
    compiled: dict[tuple[int, int, int, float, str], StepPlan] = {}
    plans = []
    for phase in checked.phases:
        key = (phase.seq_len, phase.global_batch, phase.grad_accum, phase.masking_rate, phase.objective)
        if key not in compiled:
            compiled[key] = plan_step(checked, phase, mesh)
        plans.append(dataclasses.replace(compiled[key], phase=phase))
    return tuple(plans)


def plan_step(checked: Checked, phase: Phase, mesh: Mesh) -> StepPlan:
    """Compile the step of a phase for a pod, and read its memory and time. This takes one to several minutes.

    Args:
      checked: the run.
      phase: one of its phases.
      mesh: `pod_mesh(checked)`.
    """
    objective = checked.objectives[phase.index]
    state, lowered = _lowered(checked, phase, mesh, checked.model, objective)
    plan = StepPlan(
        phase=phase,
        params=bytes_per_device(state.params),
        optimizer=bytes_per_device(state.opt_state),
        temporary=None,
        obstacle="",
        model_flops=StepWork(checked.encoder).flops(
            **full_rows(objective, phase.global_batch, phase.seq_len, checked.encoder.windows)
        ),
        xla_flops=_xla_flops(checked, phase),
        program=None,
        seconds=math.nan,
        whole_seconds=math.nan,
    )
    try:
        with quiet_stderr():
            compiled = compile_step(lowered, PLATFORM, checked.encoder.family.is_rotary)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return dataclasses.replace(plan, obstacle=_obstacle(str(error), checked.pod.slice))
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise RuntimeError("the TPU compiler says nothing of the program that it has compiled")
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    one = checked.pod.slice
    program = read_program(text, one, checked.pod.slices)
    return dataclasses.replace(
        plan,
        temporary=used + memory.temp_size_in_bytes - plan.params - plan.optimizer,
        program=program,
        seconds=program.cycles / one.clock_hz,
        whole_seconds=program.whole_seconds(one.clock_hz),
    )


def _lowered(
    checked: Checked, phase: Phase, mesh: Mesh, model: Model, objective: Objective
) -> tuple[TrainState, jax.stages.Lowered]:
    """The train step of a phase, with some network and objective, and the shapes of its state."""
    config = checked.config
    schedule = schedule_of_phases(config.schedule, config.optimizer.learning_rate, checked.phases)
    schedule = scaled_by_batch(schedule, config.optimizer, checked.phases)
    optimizer = averaged(
        make_optimizer(
            config.optimizer.settled(config.dtype), schedule, model.decay_mask(), model.logical_axes()
        ),
        config.average.decay,
    )
    # Outside of `jax.set_mesh`: jax may compute something here, and the mesh's devices do not exist.
    state = abstract_state(model, optimizer, mesh)
    step = make_train_step(
        model,
        optimizer,
        schedule,
        objective,
        phase,
        seed=config.seed,
        dropout_implementation=dropout_generator(config.dropout_rng, PLATFORM),
        skip_bad=config.on_nonfinite == "skip",
    )
    with jax.set_mesh(mesh), jax.default_matmul_precision(config.matmul_precision):
        return state, lower(step, state, abstract_batch(mesh, phase.global_batch, phase.seq_len))


def _xla_flops(checked: Checked, phase: Phase) -> float:
    """FLOPs that XLA counts in the step as it is written, recomputation and micro-batches left out.

    They are counted before compiling, for one CPU. XLA counts a loop's body once, for any number of rounds. So the
    FLOPs of a layer are the difference between networks with and without it, which have no loops. Layers that see the
    same window have the same FLOPs. No kernel is counted but the one that XLA can read; windows run by blocks where
    the step leaves out what they hide.
    """
    whole, objective = (
        dataclasses.replace(phase, grad_accum=1),
        checked.objectives[phase.index].in_one_piece(),
    )
    one_device = make_mesh(MeshConfig(), jax.devices("cpu")[:1])
    by_blocks = checked.model.encoder.kernel.is_given(checked.encoder.windows, phase.seq_len)

    @functools.cache
    def counted(layers: int) -> float:
        fields = dataclasses.replace(
            checked.encoder.with_layers(layers), scan_unroll=0, remat="none", attention="xla"
        )
        model = build(fields, dtype=checked.config.dtype, platform=PLATFORM)
        kernel = dataclasses.replace(model.encoder.kernel, by_blocks=by_blocks)
        model = dataclasses.replace(model, encoder=dataclasses.replace(model.encoder, kernel=kernel))
        costs = _lowered(checked, whole, one_device, model, objective)[1].cost_analysis()
        return float(costs["flops"]) if costs else math.nan

    windows = checked.encoder.windows or (0,) * checked.encoder.num_hidden_layers
    further = Counter(windows[1:])
    firsts = {window: windows.index(window, 1) for window in further}
    return counted(1) + sum(
        layers * (counted(firsts[window] + 1) - counted(firsts[window])) for window, layers in further.items()
    )


def _obstacle(message: str, one: TpuSlice) -> str:
    """The memory that the step needs and the memory of a device, from the compiler's out-of-memory message."""
    used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", message)
    total = re.search(r"temporaries \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", message)
    match = used or total
    if match is None:
        return f"needs more than the {one.memory / GIB:.0f} GiB of a device"
    needed, there = (f"{size[:-1]} {size[-1]}iB" for size in match.groups())
    return f"needs {needed} of {there}" + (" for temporaries alone" if match is total else "")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what libtpu writes to file descriptor 2, which no setting of its own stops, off the terminal."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
