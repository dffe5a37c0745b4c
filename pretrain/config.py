"""Every field of a pretraining config, declared, explained and checked.

A recipe in configs/ sets what differs from these defaults; `--config.a.b=value` sets any of them on the command line.
`pretrain.unused_fields` says which fields have no effect beside others; `pretrain.job.assemble` checks the rest.
"""

from dataclasses import dataclass
from typing import Any

from base import schema
from base.errors import UserError
from base.schema import field
from data.config import PACKINGS, DataConfig
from pretrain.model_config import ModelConfig as ModelConfig
from pretrain.objective.names import TRAITS
from pretrain.optim.config import WEIGHTS, AverageConfig, OptimizerConfig
from pretrain.reports.config import LogConfig as LogConfig
from pretrain.reports.config import check_trackers
from tokenizer.config import TokenizerConfig

OBJECTIVES = tuple(TRAITS)
PHASE_SCHEDULES = ("constant", "linear", "cosine", "1-sqrt")
"""Shapes of the learning rate over a phase, see `pretrain.optim.learning_rates`."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the network learns."""

    name: str = field(
        "mlm",
        "mlm: hidden tokens are predicted from both sides; clm: each token is predicted from those before it",
        OBJECTIVES,
    )
    z_loss: float = field(
        0.0,
        "weight of log(Z)^2 in what is minimised, where Z normalises a prediction's probabilities (PaLM: 1e-4); 0: off",
    )


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are predicted, and what the model sees in their place (BERT, section 3.1)."""

    rate: float = field(
        0.15, "share of each row's maskable tokens that is predicted; with rate_shape, at the start"
    )
    rate_shape: str = field(
        "constant",
        "the rate over the run: constant, linear to final_rate, or rate_levels steps of equal length to final_rate",
        ("constant", "linear", "steps"),
    )
    final_rate: float = field(0.15, "rate_shape: the rate at the end of the run")
    rate_levels: int = field(4, "rate_shape=steps: number of rates, the first and the last included")
    mask_fraction: float = field(0.8, "of the predicted tokens, the share replaced by the mask token")
    random_fraction: float = field(
        0.1, "of the predicted tokens, the share replaced by a random token; the rest stay"
    )
    whole_word: bool = field(
        False, "predict whole words; a word with more tokens than a row's predictions is split into tokens"
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the run."""

    name: str = field(
        "linear", "shape after warm-up", ("linear", "cosine", "wsd", "inverse_sqrt", "constant")
    )
    warmup_steps: int = field(1000, "steps of linear warm-up from 0")
    final_fraction: float = field(0.0, "last learning rate as a share of the peak (linear, cosine, wsd)")
    decay_fraction: float = field(0.1, "wsd: share of the run's steps in the final decay")


@dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each axis of the mesh. One axis may be -1: it takes the remaining devices."""

    replica: int = field(1, "copies over slow links (slices of a multi-slice TPU)")
    data: int = field(-1, "data parallel")
    zero1: int = field(1, "data parallel, with moments sharded (ZeRO stage 1)")
    fsdp: int = field(1, "data parallel, with params and moments sharded (ZeRO stage 3)")
    tensor: int = field(1, "each matrix product split over devices")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on held-out documents. Every evaluation predicts the same tokens."""

    every: int = field(1000, "steps between evaluations, and one at the end; 0 never evaluates")
    steps: int = field(32, "most batches in an evaluation, each of the phase's global batch size")
    masking_rate: float = field(
        0.15,
        "share of maskable tokens that an evaluation predicts, in every phase; 0 takes the phase's masking rate",
        older=0.0,
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints, written asynchronously to WORKDIR/checkpoints."""

    every: int = field(1000, "steps between checkpoints, and one at the end")
    keep: int = field(3, "newest checkpoints kept; the best by eval/loss is kept besides")
    verify: bool = field(True, "write a digest of every file, and compare it before a checkpoint is read")


@dataclass(frozen=True)
class SpikeConfig:
    """Loss spikes: the run goes back to its newest checkpoint from before, and skips batches (PaLM, section 5.1)."""

    factor: float = field(
        0.0,
        "a loss above this many times the median of the window is a spike: the run goes back; 0 looks for none",
    )
    window: int = field(100, "steps before a step, whose losses it is compared with")
    skip: int = field(
        100, "batches to skip after the spike's, beside all those from the checkpoint to the spike"
    )
    max_rewinds: int = field(10, "most times that the run goes back; the next spike ends it")


@dataclass(frozen=True)
class CardConfig:
    """Facts for the model card that the run does not contain."""

    language: str = field(
        "", "language of the text by its code (nb), or several by commas; empty says nothing"
    )
    license: str = field("", "licence of the model by the hub's identifier (apache-2.0); empty says nothing")


@dataclass(frozen=True)
class PhaseConfig:
    """A part of the run. A field that is None takes the run's value."""

    steps: int = field(0, "steps of this phase")
    seq_len: int | None = field(None, "tokens in a row S")
    global_batch: int | None = field(None, "rows in a batch B")
    grad_accum: int | None = field(None, "micro-batches a step")
    masking_rate: float | None = field(None, "masking.rate in this phase, which is then constant in it")
    learning_rate: float | None = field(None, "peak learning rate of this phase")
    schedule: str | None = field(
        None,
        "shape of the learning rate over this phase alone, from its peak: linear, cosine and 1-sqrt (as wsd's decay) "
        "fall to schedule.final_fraction; unset goes on with schedule.name over the whole run",
        (None, *PHASE_SCHEDULES),
    )
    global_rope_theta: float | None = field(None, "modernbert: model.global_rope_theta in this phase")
    local_rope_theta: float | None = field(None, "modernbert: model.local_rope_theta in this phase")
    packing: str | None = field(
        None, "data.packing in this phase, of the same corpus from where it stood", (None, *PACKINGS)
    )
    data: DataConfig | None = field(
        None, "data of this phase; unset goes on with config.data where the last phase that read it stopped"
    )
    objective: str | None = field(
        None, "what this phase learns, mlm or clm; unset is objective.name", (None, *OBJECTIVES)
    )


PHASE_FIELDS = {
    "seq_len": "seq_len",
    "global_batch": "global_batch",
    "grad_accum": "grad_accum",
    "masking_rate": "masking.rate",
    "learning_rate": "optimizer.learning_rate",
    "schedule": "schedule.name",
    "global_rope_theta": "model.global_rope_theta",
    "local_rope_theta": "model.local_rope_theta",
    "packing": "data.packing",
    "data": "data",
    "objective": "objective.name",
}
"""For each field of a phase that overrides a field of the run, the path of that field in the config."""


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run."""

    seed: int = field(0, "the run's seed: initial weights, data order, masks, dropout")
    steps: int | None = field(None, "optimiser steps of the run (or set epochs, or phases); 0 unsets it")
    epochs: int | None = field(None, "passes over the corpus instead of steps; the corpus is counted first")
    global_batch: int = field(256, "rows in a batch B, over all devices and micro-batches")
    seq_len: int = field(128, "tokens in a row S")
    batch_warmup_steps: int = field(
        0,
        "steps at the start with smaller batches: batch_warmup_from rows, then twice as many, and so on; 0: none",
    )
    batch_warmup_from: int = field(0, "batch_warmup_steps: rows of the first batches")
    grad_accum: int = field(1, "micro-batches in a step; the result equals a step with the whole batch")
    dtype: str = field(
        "float32",
        "compute type; params are float32, and moments too but for optimizer.moment_dtype",
        ("float32", "bfloat16"),
    )
    matmul_precision: str = field(
        "default",
        "precision of float32 matrix products (jax.default_matmul_precision)",
        ("default", "high", "highest"),
    )
    dropout_rng: str = field(
        "auto",
        "generator of dropout masks: threefry (same on every mesh) or rbg (hardware); auto: threefry on CPU, else rbg",
        ("auto", "threefry", "rbg"),
    )
    on_nonfinite: str = field(
        "abort",
        "a loss or gradient is not finite: abort ends the run, skip leaves out the step, rewind goes back (see spike)",
        ("abort", "skip", "rewind"),
    )
    max_skipped: int = field(10, "with on_nonfinite=skip: most steps that are skipped in a row")
    time_limit: float = field(
        0.0,
        "seconds that a step, save or evaluation may take before the process is ended; 0 measures it, -1 sets no limit",
    )
    init_from: str = field(
        "",
        "start from this model: a workdir, a Hugging Face folder or a hub id; a fresh optimiser and step 0",
    )
    init_weights: str = field(
        "raw",
        "which weights of a workdir init_from takes: as trained, or their average (average.decay)",
        WEIGHTS,
    )
    init_tiled: bool = field(
        False,
        "init_from is a smaller model, whose weights are tiled: hidden_size, num_hidden_layers, num_attention_heads "
        "and intermediate_size are those of config.model, all else is init_from's",
    )
    init_vocabulary: str = field(
        "same",
        "same: the tokens are those of init_from; pieces: they are those of the run's own tokenizer: shared tokens "
        "keep their rows, others start as the mean of the rows of their pieces",
        ("same", "pieces"),
    )
    distributed: bool = field(
        False, "this process is one of several processes of a run, see docs/processes.md"
    )
    compilation_cache: str = field(
        "~/.cache/unmask/xla", "folder of compiled programs, shared by runs; empty for none"
    )
    tokenizer: TokenizerConfig = field(TokenizerConfig, "the tokenizer")
    data: DataConfig = field(DataConfig, "the text")
    model: ModelConfig = field(ModelConfig, "the network")
    objective: ObjectiveConfig = field(ObjectiveConfig, "what is learned")
    masking: MaskingConfig = field(MaskingConfig, "masked language modelling")
    optimizer: OptimizerConfig = field(OptimizerConfig, "the optimiser")
    schedule: ScheduleConfig = field(ScheduleConfig, "the learning rate")
    average: AverageConfig = field(AverageConfig, "the average of weights")
    mesh: MeshConfig = field(MeshConfig, "the devices")
    log: LogConfig = field(LogConfig, "logging")
    eval: EvalConfig = field(EvalConfig, "evaluation")
    checkpoint: CheckpointConfig = field(CheckpointConfig, "checkpoints")
    spike: SpikeConfig = field(SpikeConfig, "loss spikes")
    card: CardConfig = field(CardConfig, "the model card")
    phases: tuple[PhaseConfig, ...] = field(
        (),
        "stretches of the run that differ in row length, batch, mask rate, learning rate, rotation, data or objective",
    )


LARGEST = 2**31 - 1
"""The largest number of a config: steps, seeds and sizes are 32-bit integers on the device."""


def check_shared(config: Any) -> None:
    """Refuse values out of their range, of the fields that both stages have.

    Args:
      config: the config of a run of either stage.

    Raises:
      UserError: a value is wrong; the message names a right value.
    """
    for name, number in schema.flatten(schema.as_dict(config)).items():
        if isinstance(number, int) and number > LARGEST:
            raise UserError(f"config.{name}={number} should be at most {LARGEST}")
    check_trackers(config.log)
    if config.seed < 0:
        raise UserError(f"config.seed={config.seed} should be 0 or more")
    if config.time_limit < 0 and config.time_limit != -1:
        raise UserError(
            f"config.time_limit={config.time_limit:g} should be a number of seconds, 0 (measured) or -1 (no limit)"
        )
