"""The fields of a pretraining config that nothing reads, because of what other fields say."""

from collections.abc import Iterator

from base.schema import Unused
from data import config as data_config
from pretrain import starting_network
from pretrain.config import PHASE_FIELDS, LogConfig, PretrainConfig
from pretrain.models import family_fields
from pretrain.objective.names import TRAITS
from pretrain.optim import muon
from pretrain.optim.config import OptimizerConfig
from tokenizer import config as tokenizer_config

OF_RATE = ("masking.rate_shape", "masking.final_rate", "masking.rate_levels")
"""Fields of a mask rate that changes over the run."""
OF_ADAM = ("optimizer.beta1", "optimizer.beta2", "optimizer.eps")


def unused_fields(config: PretrainConfig) -> list[Unused]:
    """The fields that would have no effect in a run of this config.

    Fields of the network are left out if a file or a checkpoint gives the network: see `pretrain.starting_network`.
    """
    return [
        *_of_start(config),
        *(() if starting_network.is_given(config) else family_fields.unused_fields(config.model)),
        *_of_data(config),
        *_of_phases(config),
        *_of_objectives(config),
        *_of_learning(config),
        *_of_reports(config),
    ]


def _of_start(config: PretrainConfig) -> Iterator[Unused]:
    brings_tokenizer = config.init_from if config.init_vocabulary == "same" else ""
    yield from tokenizer_config.unused_fields(config.tokenizer, brings_tokenizer)
    if config.data.source == "prepared":
        training = tuple(f"tokenizer.{name}" for name in tokenizer_config.TRAINING)
        because = (
            "config.data.source='prepared' brings the tokenizer of its ids; set it for python -m data.prepare"
        )
        yield Unused(training, because, ("data.source",))
    if not config.init_from:
        because = "config.init_from names no model to start from; set it"
        yield Unused(("init_tiled", "init_vocabulary"), because, ("init_from",))
    elif config.init_tiled:
        because = (
            "config.init_tiled=True takes the sizes of the network from config.model; unset one of the two"
        )
        yield Unused(("model.config_file",), because, ("init_tiled",))
    if config.init_from:
        start = f"config.init_from={config.init_from!r}"
        starts = tuple(f"model.{name}" for name in starting_network.RANDOM_START)
        yield Unused(starts, f"{start} brings its weights; unset one of the two", ("init_from",))
    else:
        because = "config.init_from is empty: the weights are random; unset it, or set config.init_from"
        yield Unused(("init_weights",), because, ("init_from",))
    if config.model.remat in ("full", "offload") and config.model.scan_unroll == 0:
        because = (
            f"config.model.remat={config.model.remat!r} keeps the layers in a loop; "
            "set it to fewer than the layers, or unset remat"
        )
        yield Unused(("model.scan_unroll",), because, ("model.remat",))


def _of_data(config: PretrainConfig) -> Iterator[Unused]:
    yield from data_config.unused_fields(config.data)
    for index, phase in enumerate(config.phases):
        if phase.data is not None:
            yield from data_config.unused_fields(phase.data, f"phases[{index}].data")


def _of_phases(config: PretrainConfig) -> Iterator[Unused]:
    learned = _learned(config)
    for name, path in PHASE_FIELDS.items():
        reads = [
            index for index, what in enumerate(learned) if name != "masking_rate" or TRAITS[what].hides_tokens
        ]
        if (
            config.phases
            and reads
            and all(getattr(config.phases[index], name) is not None for index in reads)
        ):
            set_in = tuple(f"phases[{index}].{name}" for index in reads)
            paths = (path, *(OF_RATE if name == "masking_rate" else ()))
            yield Unused(paths, f"every phase has its own; set config.{set_in[0]}", set_in)
    for index, phase in enumerate(config.phases):
        if phase.data is not None:
            place = f"phases[{index}].data"
            yield Unused(
                (f"phases[{index}].packing",),
                f"the phase has its own data; set config.{place}.packing",
                (place,),
            )
    if not config.batch_warmup_steps:
        because = "config.batch_warmup_steps=0 warms up no batch; unset it, or set config.batch_warmup_steps"
        yield Unused(("batch_warmup_from",), because, ("batch_warmup_steps",))


def _of_objectives(config: PretrainConfig) -> Iterator[Unused]:
    """Fields of masks where a phase, or the whole run, hides no tokens."""
    learned = _learned(config)
    places = [f"phases[{index}].objective" for index in range(len(config.phases))]
    for index, (place, name) in enumerate(zip(places, learned)):
        if not TRAITS[name].hides_tokens:
            because = f"the phase learns {name}, which hides no tokens; unset it, or set config.{place}=mlm"
            yield Unused((f"phases[{index}].masking_rate",), because, ("objective.name", place))
    if not any(TRAITS[name].hides_tokens for name in learned):
        because = (
            f"the run learns {learned[0]}, which hides no tokens; unset it, or set config.objective.name=mlm"
        )
        hidden = ("masking", "eval.masking_rate", "model.narrow_layers")
        yield Unused(hidden, because, ("objective.name", *places))

    shape = config.masking.rate_shape
    for name, shapes in (("final_rate", ("linear", "steps")), ("rate_levels", ("steps",))):
        if shape not in shapes:
            because = (
                f"config.masking.rate_shape={shape!r} does not read it; unset it, or set config.masking.rate_shape to "
                f"{' or '.join(shapes)}"
            )
            yield Unused((f"masking.{name}",), because, ("masking.rate_shape",))


def _learned(config: PretrainConfig) -> list[str]:
    """The objective of each phase, or the only objective of a run without phases."""
    return [phase.objective or config.objective.name for phase in config.phases] or [config.objective.name]


def _of_learning(config: PretrainConfig) -> Iterator[Unused]:
    yield from _of_optimizer(config.optimizer)
    yield from unused_skips(config.on_nonfinite)
    yield from _of_spikes(config)
    yield from _of_schedule(config)
    rates = (config.model.hidden_dropout_prob, config.model.attention_probs_dropout_prob)
    new = not starting_network.is_given(config)
    if rates == (0, 0) or (new and family_fields.drops_nothing(config.model)):
        because = (
            "nothing is dropped: config.model.hidden_dropout_prob and attention_probs_dropout_prob are 0"
        )
        yield Unused(("dropout_rng", "model.dropout_bits"), because, ("model.hidden_dropout_prob",))


def _of_schedule(config: PretrainConfig) -> Iterator[Unused]:
    name = config.schedule.name
    shapes = [phase.schedule or name for phase in config.phases] or [name]
    by = ("schedule.name", *(f"phases[{index}].schedule" for index in range(len(config.phases))))
    if not {"linear", "cosine", "wsd", "1-sqrt"} & {*shapes}:
        because = f"config.schedule.name={name!r} does not read it; unset it, or choose linear, cosine or wsd"
        yield Unused(("schedule.final_fraction",), because, by)
    if "wsd" not in shapes:
        because = f"config.schedule.name={name!r} does not read it; unset it, or set config.schedule.name=wsd"
        yield Unused(("schedule.decay_fraction",), because, by)


def _of_optimizer(config: OptimizerConfig) -> Iterator[Unused]:
    name = config.name
    for readers, fields in (
        (
            muon.NAMES,
            tuple(
                f"optimizer.{name}"
                for name in (
                    "muon_momentum",
                    "matrix_weight_decay",
                    "orthogonal_dtype",
                    "orthogonal_steps",
                    "orthogonal_per_head",
                )
            ),
        ),
        (("normuon",), ("optimizer.normuon_beta2",)),
    ):
        if name not in readers:
            because = (
                f"config.optimizer.name={name!r} does not read it; unset it, or set config.optimizer.name="
                f"{' or '.join(readers)}"
            )
            yield Unused(fields, because, ("optimizer.name",))
    yield from unused_moments(name)
    if name == "adafactor":
        because = (
            f"config.optimizer.name={name!r} has no first moments; unset it, or choose another optimiser"
        )
        yield Unused(("optimizer.moment_dtype",), because, ("optimizer.name",))
    if not config.reference_batch:
        because = (
            "config.optimizer.reference_batch=0 scales no learning rate; unset it, or set reference_batch"
        )
        yield Unused(("optimizer.batch_exponent",), because, ("optimizer.reference_batch",))


def unused_skips(policy: str) -> Iterator[Unused]:
    """The limit of skipped steps, where none is skipped; the same in both stages.

    Args:
      policy: config.on_nonfinite.
    """
    if policy != "skip":
        because = f"config.on_nonfinite={policy!r} skips no step; unset it, or set config.on_nonfinite=skip"
        yield Unused(("max_skipped",), because, ("on_nonfinite",))


def _of_spikes(config: PretrainConfig) -> Iterator[Unused]:
    if not config.spike.factor:
        because = "config.spike.factor=0 looks for no spikes; unset it, or set config.spike.factor"
        yield Unused(("spike.window",), because, ("spike.factor",))
        if config.on_nonfinite != "rewind":
            because += " or config.on_nonfinite=rewind"
            yield Unused(("spike.skip", "spike.max_rewinds"), because, ("spike.factor", "on_nonfinite"))


def unused_moments(optimizer: str) -> Iterator[Unused]:
    """The fields of Adam's moments, if the optimiser has no such moments. Both stages call this function.

    Args:
      optimizer: config.optimizer.name.
    """
    if optimizer == "adafactor":
        because = (
            "config.optimizer.name='adafactor' has no such moments; unset it, or choose another optimiser"
        )
        yield Unused(OF_ADAM, because, ("optimizer.name",))


def _of_reports(config: PretrainConfig) -> Iterator[Unused]:
    if not config.eval.every:
        because = "config.eval.every=0 never evaluates; unset it, or set config.eval.every"
        yield Unused(("eval.steps", "eval.masking_rate"), because, ("eval.every",))
    steps = sum(phase.steps for phase in config.phases) or config.steps or 0
    yield from of_profile(config.log, steps, by=("steps", "phases"))


def of_profile(log: LogConfig, steps: int, *, by: tuple[str, ...]) -> Iterator[Unused]:
    """The fields of the profile that would have no effect in a run.

    Args:
      log: the run's log settings.
      steps: number of steps of the run; 0 if it is not known.
      by: the fields that set the number of steps.
    """
    if not set(log.trackers) - {"tensorboard"}:
        because = "only wandb, trackio and mlflow have projects; name one of them in config.log.trackers"
        yield Unused(("log.project",), because, ("log.trackers",))
    if not log.profile_steps:
        because = "config.log.profile_steps=0 profiles nothing; set config.log.profile_steps"
        yield Unused(("log.profile_start",), because, ("log.profile_steps",))
    elif 0 < steps <= log.profile_start:
        because = f"the run ends before, at step {steps}; set config.log.profile_start to less"
        yield Unused(("log.profile_start", "log.profile_steps"), because, by)
