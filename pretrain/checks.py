"""Checks of a pretraining config that need no corpus and no workdir. Runs and plans make them in the same order."""

from collections.abc import Mapping, Sequence

from base.errors import UserError
from base.tpu_types import GENERATIONS
from data.config import ISOLATING
from data.special_tokens import SpecialTokens
from pretrain.config import PretrainConfig
from pretrain.models import EncoderConfig, Model, build
from pretrain.models.attention import Use
from pretrain.objective.names import TRAITS
from pretrain.optim.learning_checks import check_learning
from pretrain.optim.learning_rates import schedule_of_phases
from pretrain.phases import Phase, check_length, check_lengths, check_phase, check_values

CRASHING_FSDP = 64
"""On a TPU v5e, layers that are recomputed and split over so many devices crash libtpu."""
TO_COME = SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)
"""Special tokens of a tokenizer that is still to be trained."""


def check_fields(config: PretrainConfig) -> None:
    """Refuse a config whose fields do not go together, or are out of their range.

    Raises:
      UserError: what is wrong, and what would be right.
    """
    check_lengths(config)
    check_values(config)
    check_learning(config)


def check_steps(
    config: PretrainConfig, phases: Sequence[Phase], mesh_sizes: Mapping[str, int], *, known: bool
) -> None:
    """Refuse impossible phases, epochs or learning rates.

    Args:
      config: the run.
      phases: its phases.
      mesh_sizes: devices along each axis of the mesh.
      known: whether the number of steps is known; False if it is a placeholder.

    Raises:
      UserError: what is wrong, and what would be right.
    """
    for phase in phases:
        check_phase(phase, mesh_sizes)
    if config.epochs is not None and config.data.source == "mix":
        raise UserError("a mix has no epochs of its own: set config.steps instead of config.epochs")
    if known:
        schedule_of_phases(config.schedule, config.optimizer.learning_rate, phases)


def check_compiler(config: PretrainConfig, mesh_sizes: Mapping[str, int], generation: str) -> None:
    """Refuse a step that crashes the compiler of TPUs (libtpu 0.0.42), which would end the process without a message.

    Args:
      config: the run.
      mesh_sizes: devices along each axis of the mesh.
      generation: of the TPU, as in `base.tpu_types`; empty for other devices.

    Raises:
      UserError: a mesh and a policy of recomputation that crash it.
    """
    fsdp, remat = mesh_sizes["fsdp"], config.model.remat
    if generation == "v5e" and remat in ("full", "offload") and fsdp >= CRASHING_FSDP:
        raise UserError(
            f"config.model.remat={remat} with config.mesh.fsdp={fsdp} crashes the compiler of TPU v5e (libtpu): "
            "set config.model.remat=none, or config.mesh.data=-1 config.mesh.fsdp=16"
        )


def tpu_generation(device_kind: str) -> str:
    """The generation of a TPU by `jax.Device.device_kind`; empty for other devices."""
    return next((each.name for each in GENERATIONS if device_kind in each.device_kinds), "")


def checked_model(
    config: PretrainConfig, phases: Sequence[Phase], encoder: EncoderConfig, platform: str | None = None
) -> Model:
    """Build the network, and check that it has positions for the rows of all phases.

    Args:
      config: the run.
      phases: its phases.
      encoder: the network's fields.
      platform: where the network will run (cpu, gpu or tpu); None is jax's platform on this machine.

    Raises:
      UserError: it cannot be built, or rows are too long for it.
    """
    if config.model.word_init == "bigrams":
        _check_bigrams(encoder)
    model = build(encoder, dtype=config.dtype, platform=platform, use=_use(phases))
    for phase in phases:
        check_length(phase, encoder, config.model.config_file)
        phase.network(encoder)
    return model


def _check_bigrams(encoder: EncoderConfig) -> None:
    """Refuse counts of pairs for a network that has no place for them."""
    start = "config.model.word_init='bigrams'"
    if encoder.family.parts.bigrams is None:
        raise UserError(f"{start}: {encoder.model_type} has no such start; set it to cooccurrence")
    if encoder.position_init != "neighbours":
        raise UserError(f"{start} needs config.model.position_init='neighbours'")
    if not encoder.tie_word_embeddings:
        raise UserError(f"{start} needs config.model.tie_word_embeddings=True")


def models_of_phases(
    config: PretrainConfig, phases: Sequence[Phase], encoder: EncoderConfig, model: Model
) -> tuple[Model, ...]:
    """The network of each phase: `model`, or one that differs from it in what phases may change.

    Args:
      config: the run.
      phases: its phases.
      encoder: the fields of its network.
      model: its network, as `checked_model` returns it.
    """
    built = {encoder: model}
    for phase in phases:
        if (own := phase.network(encoder)) not in built:
            built[own] = build(own, dtype=config.dtype, use=_use(phases))
    return tuple(built[phase.network(encoder)] for phase in phases)


def _use(phases: Sequence[Phase]) -> Use:
    """What the phases of a run ask of the attention kernel."""
    return Use(
        causal=any(TRAITS[phase.objective].causal for phase in phases),
        row_lengths=tuple(phase.seq_len for phase in phases),
        packed=any(phase.data.packing in ISOLATING for phase in phases),
    )
