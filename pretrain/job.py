"""A run assembled from its config and checked, before anything is compiled."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
from etils import epath
from jax.sharding import Mesh

from base import schema
from base.errors import UserError
from base.set_fields import Given
from data.config import leaf_sources
from data.corpus import corpus_fingerprint, count_steps, open_sources
from data.source_protocol import Source
from data.sources import open_source
from pretrain import origin, starting_network
from pretrain.checks import (
    TO_COME,
    check_compiler,
    check_fields,
    check_steps,
    checked_model,
    models_of_phases,
    tpu_generation,
)
from pretrain.config import PretrainConfig
from pretrain.devices import hardware
from pretrain.devices.global_batch import local_rows
from pretrain.devices.mesh import make_mesh
from pretrain.models import EncoderConfig, Model
from pretrain.objective.held_out_cache import check_held_out
from pretrain.objective.masking import MaskingTables
from pretrain.objective.objective import Objective
from pretrain.objective.registry import evaluation_objective, training_objective
from pretrain.optim.averages import averaged
from pretrain.optim.batch_scaling import scaled_by_batch
from pretrain.optim.learning_rates import schedule_of_phases
from pretrain.optim.optimizers import make_optimizer
from pretrain.optim.train_state import dropout_generator
from pretrain.phases import UNCOUNTED, Phase, resolve_phases
from pretrain.runtime import processes
from pretrain.runtime.changes import SAFE_IN_PRETRAINING
from tokenizer.load import Loaded
from tokenizer.run_tokenizer import check_prepared, ensure_tokenizer, has_tokenizer

logger = logging.getLogger(__name__)

NOTHING_SET = Given()
CORPUS = "corpus "
"""What the names of the fingerprints of corpora begin with; the rest is the corpus' number (`Job.data_keys`)."""


@dataclass(frozen=True)
class Job:
    """All parts of a run except its state."""

    config: PretrainConfig
    given: PretrainConfig
    """The config as the user gave it, with the fields of the network that init_from or config_file gives."""
    notes: tuple[str, ...]
    """Messages about the recipe's fields that have no effect."""
    tokenizer: Loaded
    mesh: Mesh
    encoder: EncoderConfig
    model: Model
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    phases: tuple[Phase, ...]
    models: tuple[Model, ...]
    """The network of each phase: `model`, or one with the rotary bases of the phase."""
    objectives: tuple[Objective, ...]
    """What each phase learns."""
    evaluations: tuple[Objective, ...]
    """What each phase is evaluated with."""
    epoch_steps: int | None
    fingerprints: Mapping[str, str]
    data_keys: tuple[str, ...]
    """For each phase, the first phase with the same corpus. Phases with one key share the positions of its streams."""
    peak: hardware.Peak | None
    """What one of the mesh's devices can do; None where that is not known."""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.phases[-1].stop

    @property
    def peak_flops(self) -> float | None:
        """FLOP/s of matrix products that the mesh's devices can do together; None where that is not known."""
        return self.peak.flops_per_second * self.mesh.size if self.peak else None

    def measured_peak(self) -> hardware.Peak | None:
        """The peak of one of the mesh's devices, measured now where it is not a vendor's figure."""
        return _peak_now(self.config, self.mesh)

    @property
    def dropout_implementation(self) -> str:
        """The generator of dropout masks, by jax's name."""
        return dropout_generator(self.config.dropout_rng, jax.default_backend())


def assemble(
    config: PretrainConfig,
    workdir: epath.Path,
    saved: Mapping[str, Any] | None,
    given: Given = NOTHING_SET,
) -> Job:
    """Check a config and build what it describes; trains the tokenizer where the run has none.

    Args:
      config: the run's config, as given.
      workdir: the run's folder.
      saved: the `run` item of the newest checkpoint, where there is one.
      given: the fields of the config that were set, and where.

    Raises:
      UserError: anything in the config that cannot work.
    """
    check_fields(config)
    notes = list(given.notes)
    asked, config = origin.settled_with_origin(config, workdir, given, saved, notes.append)
    mesh = make_mesh(config.mesh)
    planned = resolve_phases(config, epoch_steps=UNCOUNTED)
    _check_before_tokenizer(config, planned, mesh)
    if config.eval.every and not config.tokenizer.path and saved is None:
        processes.from_first(partial(_check_held_out, planned, workdir))
    tokenizer = _tokenizer(config, planned, workdir, resuming=saved is not None)
    if saved is None:
        origin.check_tokens(config, tokenizer)
    encoder = origin.network(config, tokenizer.vocab_size, tokenizer.special)
    encoder = starting_network.as_begun(encoder, saved if config.model.config_file else None)
    model = checked_model(config, planned, encoder)
    check_prepared([source for phase in planned for source in _prepared(phase)], tokenizer)
    epoch_steps = _epoch_steps(asked, tokenizer, saved)
    phases = resolve_phases(config, epoch_steps=epoch_steps)
    notes += [*_note_on_profile(config, epoch_steps), *notes_on_packing(config)]
    corpora = [corpus_fingerprint(each.data, open_sources(each.data, each.place("data"))) for each in phases]
    firsts = _first_phases(phases, corpora)
    _check_streams(phases, corpora)
    schedule = schedule_of_phases(config.schedule, config.optimizer.learning_rate, phases)
    schedule = scaled_by_batch(schedule, config.optimizer, phases)
    settings = config.optimizer.settled(config.dtype)
    optimizer = make_optimizer(settings, schedule, model.decay_mask(), model.logical_axes())
    tables, separator = MaskingTables.build(config.masking, tokenizer), tokenizer.special.sep
    return Job(
        config=config,
        given=asked,
        notes=tuple(notes),
        tokenizer=tokenizer,
        mesh=mesh,
        encoder=encoder,
        model=model,
        schedule=schedule,
        optimizer=averaged(optimizer, config.average.decay),
        phases=phases,
        models=models_of_phases(config, phases, encoder, model),
        objectives=tuple(
            training_objective(phase, tables, separator, config.objective.z_loss) for phase in phases
        ),
        evaluations=tuple(evaluation_objective(phase, config.eval, tables, separator) for phase in phases),
        epoch_steps=epoch_steps,
        fingerprints={
            "tokenizer": tokenizer.fingerprint(),
            **{f"{CORPUS}{number}": corpus for corpus, number in firsts.items()},
        },
        data_keys=tuple(str(firsts[corpus]) for corpus in corpora),
        peak=_peak(config, mesh, saved),
    )


def _prepared(phase: Phase) -> list[Source]:
    """The prepared sources that a phase reads, for training or evaluation; the others are not opened."""
    data = phase.data
    members = [*leaf_sources(data), *([data.eval_source] if data.eval_source else [])]
    return [open_source(member, phase.place("data")) for member in members if member.source == "prepared"]


def _check_before_tokenizer(config: PretrainConfig, planned: Sequence[Phase], mesh: Mesh) -> None:
    """Refuse impossible phases, and an impossible network, before a tokenizer is trained."""
    check_steps(config, planned, mesh.shape, known=config.epochs is None)
    check_compiler(config, mesh.shape, tpu_generation(mesh.devices.flat[0].device_kind))
    own_tokens = origin.has_own_vocabulary(config)
    if not config.model.config_file or (own_tokens and not config.tokenizer.path):
        sizes = config.tokenizer.vocab_size, config.model.vocab_size
        size = (sizes[1] or sizes[0]) if config.tokenizer.path else max(sizes)
        checked_model(config, planned, origin.network(config, size, TO_COME))


def _first_phases(phases: Sequence[Phase], corpora: Sequence[str]) -> dict[str, int]:
    """The number of the first phase that reads each corpus; a batch warm-up, which may change, does not count."""
    numbers: dict[str, int] = {}
    for phase, corpus in zip(phases, corpora, strict=True):
        numbers.setdefault(corpus, phase.number)
    return numbers


def _check_streams(phases: Sequence[Phase], corpora: Sequence[str]) -> None:
    """Refuse phases that go on in the corpus of another phase and divide it in another way.

    Raises:
      UserError: the number of streams, or the way files are divided, differs; the message names both places.
    """
    first: dict[str, Phase] = {}
    for phase, corpus in zip(phases, corpora, strict=True):
        known = first.setdefault(corpus, phase)
        for name in ("streams", "split_files"):
            was, now = (getattr(each.data, name) for each in (known, phase))
            if now != was:
                raise UserError(
                    f"{phase.place('data')}.{name}={now} should be {was}, as {known.place('data')}.{name} is: both "
                    "are of one corpus, in which a phase goes on where the phase before it stopped"
                )


def _check_held_out(phases: Sequence[Phase], workdir: epath.Path) -> None:
    """Call `check_held_out` for the longest rows of each corpus, if the run has no tokenizer yet.

    Only the first process looks for a tokenizer. Another process might look after the first one has made it.
    """
    if not has_tokenizer(workdir):
        longest = {phase.place("data"): phase for phase in sorted(phases, key=lambda phase: phase.seq_len)}
        for place, phase in longest.items():
            check_held_out(phase.data, phase.seq_len, place)


def _tokenizer(
    config: PretrainConfig, phases: Sequence[Phase], workdir: epath.Path, *, resuming: bool
) -> Loaded:
    """Make or load the run's tokenizer. If there are several processes, the first makes it while the others wait."""
    length = max(phase.seq_len for phase in phases)

    def ensure() -> Loaded:
        return ensure_tokenizer(
            config.tokenizer, phases[0].data, workdir, model_max_length=length, resuming=resuming
        )

    try:
        return processes.first_then_all(ensure, "making or loading the tokenizer")
    except UserError as error:
        if not resuming and config.init_from and not origin.has_own_vocabulary(config):
            raise UserError(f"config.init_from={config.init_from!r}: {error}") from error
        raise


def notes_on_packing(config: PretrainConfig) -> list[str]:
    """Say where the data of a phase leaves out the packing of the run, and so takes the default."""
    return [
        f"config.phases[{index}].data.packing={phase.data.packing!r}, but config.data.packing={config.data.packing!r}"
        for index, phase in enumerate(config.phases)
        if phase.data and phase.packing is None and phase.data.packing != config.data.packing
    ]


def _note_on_profile(config: PretrainConfig, epoch_steps: int | None) -> list[str]:
    """The message for a run of epochs that ends before its profile begins."""
    log = config.log
    if epoch_steps is None or not log.profile_steps or log.profile_start < epoch_steps:
        return []
    return [
        f"without effect: config.log.profile_start={log.profile_start}; the run ends before, at step {epoch_steps}"
    ]


def _peak(config: PretrainConfig, mesh: Mesh, saved: Mapping[str, Any] | None) -> hardware.Peak | None:
    """The peak rate of one device of the mesh. A resumed run keeps the rate that was measured before."""
    peak = _peak_now(config, mesh)
    if peak is not None and saved is not None and saved.get("peak"):
        return hardware.kept_peak(hardware.Peak(**saved["peak"]), peak)
    return peak


def _peak_now(config: PretrainConfig, mesh: Mesh) -> hardware.Peak | None:
    return hardware.peak_flops(mesh.local_devices[0], config.dtype, config.matmul_precision)


def _epoch_steps(config: PretrainConfig, tokenizer: Loaded, saved: Mapping[str, Any] | None) -> int | None:
    """Steps that config.epochs comes to; counted once in a run's life."""
    if config.epochs is None:
        return None
    if saved is not None and _counted_alike(config, saved["config"]):
        _check_rows_as_counted(config, saved)
        return int(saved["steps"])
    if saved is not None and saved["config"].get("epochs") is not None:
        _check_counted_rows(config, saved)
    logger.info("counting the rows of %d epochs", config.epochs)
    return processes.from_first(
        lambda: count_steps(
            config.data,
            tokenizer.encode,
            seed=config.seed,
            seq_len=config.seq_len,
            epochs=config.epochs or 0,
            global_batch=config.global_batch,
        ),
        "counting the rows of the epochs",
    )


def _counted_alike(config: PretrainConfig, saved: Mapping[str, Any]) -> bool:
    """Whether two configs agree in all fields that determine the number of steps of their epochs."""
    deciding = ("epochs", "seed", "global_batch", "seq_len", "data.", "tokenizer.")
    changed = schema.differences(schema.completed(saved, PretrainConfig), schema.as_dict(config))
    return not any(name.startswith(deciding) and not name.startswith(SAFE_IN_PRETRAINING) for name in changed)


def _check_counted_rows(config: PretrainConfig, saved: Mapping[str, Any]) -> None:
    """Refuse other rows or batches in a run of epochs: the steps that are made had those that were counted.

    Raises:
      UserError: a field that decides how many steps an epoch has is another one.
    """
    changed = schema.differences(schema.completed(saved["config"], PretrainConfig), schema.as_dict(config))
    for name in ("global_batch", "seq_len", "data.packing"):
        old, new = changed.get(name, (None, None))
        if old != new and not (_counted_by_document(saved) and new == "lines"):
            raise UserError(
                f"config.{name} of a run of config.epochs cannot change, because the steps of its epochs were counted "
                f"with it: it was {old!r}, is {new!r}; put it back, or set config.steps"
            )


def _counted_by_document(saved: Mapping[str, Any]) -> bool:
    """Whether a run is so old that its epochs were counted with one document in each row."""
    return any("end" not in state for states in saved["data"].values() for state in states.values())


def _check_rows_as_counted(config: PretrainConfig, saved: Mapping[str, Any]) -> None:
    """Refuse a run whose epochs were counted with one document in each row, if documents now share rows.

    Raises:
      UserError: documents would share rows; the message says how to go on with one document in each row.
    """
    if _counted_by_document(saved) and config.data.packing == "documents" and config.data.window == 1:
        raise UserError(
            "documents share rows with config.data.packing='documents' and config.data.window=1, but the epochs of "
            "this run were counted with one in each row: pass --config.data.packing=lines --accept_changes to go on so"
        )


def process_rows(job: Job, phase: Phase) -> tuple[int, ...]:
    """The rows of the phase's batches that this process reads."""
    return local_rows(job.mesh, phase.global_batch)
