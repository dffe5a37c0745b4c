"""The fields of a fine-tuning config: their declarations, explanations and checks.

A recipe in configs/ sets only fields that differ from these defaults. `--config.a.b=value` on the command line sets any
field.
"""

from dataclasses import dataclass

from base import schema
from base.errors import UserError
from base.schema import field
from data.labelled.config import LabelledConfig
from finetune.kind_configs import EmbeddingConfig, QuestionsConfig, check_kinds
from pretrain.config import CardConfig, LogConfig, MeshConfig, check_shared
from pretrain.model_config import REMAT_ALIASES, REMAT_POLICIES
from pretrain.optim.config import OPTIMIZERS, WEIGHTS, AverageConfig
from pretrain.optim.learning_checks import check_average
from pretrain.publish.public_names import check_card

MAX_LENGTH, MAX_LENGTH_OF_QUESTIONS = 128, 384
"""Defaults of the most tokens of an example, and of a question with a window of its context."""
ENCODER = "encoder"
"""The value of config.freeze that trains the head alone."""
FROM_MNLI = ("mrpc", "rte", "stsb")
"""Small tasks that score higher from a model fine-tuned on MNLI (Liu et al. 2019, section 5)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser (optax), and its settings."""

    name: str = field("adamw", "the optimiser, as in pretraining", OPTIMIZERS)
    learning_rate: float = field(2e-5, "peak learning rate")
    weight_decay: float = field(0.01, "decoupled weight decay; biases and layer norms are exempt")
    beta1: float = field(0.9, "decay of the first moment")
    beta2: float = field(0.999, "decay of the second moment")
    eps: float = field(1e-8, "added to the root of the second moment")
    clip_norm: float = field(1.0, "clip gradients to this global norm; 0 does not clip")
    layer_decay: float = field(
        1.0, "learning rate of each layer divided by the rate of the layer above it; 1 is the same for all"
    )


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the run."""

    name: str = field(
        "linear", "shape after warm-up", ("linear", "cosine", "wsd", "inverse_sqrt", "constant")
    )
    warmup_ratio: float = field(0.06, "share of the steps in linear warm-up from 0")
    warmup_steps: int = field(0, "steps of warm-up instead of the share; 0 takes warmup_ratio")


@dataclass(frozen=True)
class ModelConfig:
    """Settings of the network that override its config.json."""

    dropout: float | None = field(
        None, "dropout of embeddings, blocks and head; None takes the checkpoint's value"
    )
    attention_dropout: float | None = field(
        None, "dropout of attention weights; None takes the checkpoint's value"
    )
    pooling: str = field(
        "",
        "what classifies a text: cls or mean (eurobert: bos, mean or late); empty takes the checkpoint's",
    )
    attention: str = field(
        "auto", "attention kernel, as in pretraining: auto, xla, chunked, cudnn, triton, one_pass or splash"
    )
    remat: str = field(
        "none",
        "what the backward pass computes again, to save memory, as in pretraining",
        REMAT_POLICIES,
        aliases=REMAT_ALIASES,
    )
    scan_unroll: int = field(0, "layers unrolled in the scan over them; 0: all")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation, the best model, early stopping."""

    every: int = field(
        0, "steps between evaluations; 0 evaluates once an epoch. The end of the run is always evaluated"
    )
    batch: int = field(64, "rows in an evaluation batch")
    metric: str = field(
        "", "metric that chooses the best model; empty takes the task's metric, 'loss' the lowest loss"
    )
    patience: int = field(
        0, "stop after this number of evaluations in a row without a better model; 0 never stops early"
    )
    restore_best: bool = field(True, "end with the best model, not the last")
    tests: bool = field(True, "label the test sets with the best model at the end, in WORKDIR/predictions")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints, written asynchronously to WORKDIR/checkpoints."""

    every: int = field(0, "steps between checkpoints; 0 saves once an epoch")
    keep: int = field(1, "number of newest checkpoints to keep")
    verify: bool = field(True, "write a digest of every file, and compare it before a checkpoint is read")


@dataclass(frozen=True)
class SearchConfig:
    """A search with optuna over the values with a range here. Every trial trains one run, or one for each seed."""

    trials: int = field(0, "number of trials of the search; 0 makes a plain run without a search")
    objective: str = field(
        "",
        "metric to optimise, as its mean over seeds; empty takes the metric that chooses the best model",
    )
    learning_rate: tuple[float, ...] = field(
        (), "low and high, drawn on a log scale; empty does not search it"
    )
    global_batch: tuple[int, ...] = field((), "batch sizes to choose from; empty does not search it")
    epochs: tuple[int, ...] = field((), "low and high; empty does not search it")
    warmup_ratio: tuple[float, ...] = field((), "low and high; empty does not search it")
    weight_decay: tuple[float, ...] = field((), "low and high; empty does not search it")


@dataclass(frozen=True)
class BenchmarkTask:
    """A task of a benchmark. A field with None takes its value from the rest of the config."""

    task: str = field("", "a GLUE task")
    epochs: int | None = field(None, "passes over the training examples")
    global_batch: int | None = field(None, "examples in a batch")
    learning_rate: float | None = field(None, "peak learning rate")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Several tasks one after another, each in WORKDIR/TASK, and a table of them all."""

    tasks: tuple[BenchmarkTask, ...] = field((), "the tasks in their order; empty runs config.task alone")
    from_mnli: bool = field(False, "train MNLI first, and start MRPC, RTE and STS-B from its best model")


@dataclass(frozen=True)
class FinetuneConfig:
    """One task, fine-tuned from one model. Several runs may be trained together."""

    kind: str = field(
        "sequence",
        "what has labels: sequence (a text or a pair), tokens (each word, for entities and parts of speech); "
        "embedding: pairs of texts that belong together, to train vectors of texts; questions: answers in a context",
        ("sequence", "tokens", "embedding", "questions"),
    )
    task: str = field("", "a GLUE task (cola, mnli, ...), or empty for examples of your own or of the hub")
    init_from: str = field(
        "", "the model to start from: a workdir, a Hugging Face folder or a hub id, possibly with @REVISION"
    )
    init_weights: str = field(
        "raw",
        "which weights of a workdir of pretraining: as trained, or their average (average.decay there)",
        WEIGHTS,
    )
    seed: int = field(0, "seed of the first run: head, data order, dropout")
    seeds: int = field(1, "number of runs trained together, with seeds seed, seed + 1, ...")
    learning_rates: tuple[float, ...] = field(
        (), "peak learning rates trained together, each with every seed; empty takes optimizer.learning_rate"
    )
    run_members: str = field(
        "auto",
        "how several runs make their steps: together, as one program; in_turn, one after another, by the program of a "
        "single run; auto: in_turn on a single CPU device, else together",
        ("auto", "together", "in_turn"),
        older="together",
    )
    freeze: str = field(
        "",
        "what is not trained: encoder (all but the head), or a number (the embeddings and so many layers from below)",
    )
    epochs: int = field(3, "passes over the training examples")
    steps: int = field(0, "steps of the run instead of epochs; 0 takes epochs")
    global_batch: int = field(32, "examples in a batch of each run, over all devices and micro-batches")
    grad_accum: int = field(1, "micro-batches in a step; the result equals a step with the whole batch")
    max_length: int = field(
        0,
        "most tokens of an example, with special tokens; longer examples are truncated; "
        f"0: {MAX_LENGTH} (questions: {MAX_LENGTH_OF_QUESTIONS}), or the model's limit if it is lower",
    )
    lengths: tuple[int, ...] = field(
        (), "row lengths that batches are padded to; empty chooses a few from the data"
    )
    label_smoothing: float = field(0.0, "share of the target that is spread over all classes")
    dtype: str = field(
        "float32", "compute type; params and optimiser state are float32", ("float32", "bfloat16")
    )
    matmul_precision: str = field(
        "default",
        "precision of float32 matrix products (jax.default_matmul_precision)",
        ("default", "high", "highest"),
    )
    on_nonfinite: str = field(
        "abort",
        "if a loss or gradient is not finite: abort ends the run, skip leaves out the step",
        ("abort", "skip"),
    )
    max_skipped: int = field(10, "with on_nonfinite=skip: most steps that are skipped in a row")
    time_limit: float = field(
        0.0,
        "seconds that a step, save or evaluation may take before the process is ended; 0 measures it, -1 sets no limit",
    )
    inference: str = field(
        "jax",
        "onnx: also write model.onnx, evaluate it beside the model, and label the test sets with it",
        ("jax", "onnx"),
    )
    distributed: bool = field(
        False, "this process is one of several processes of a run, see docs/processes.md"
    )
    compilation_cache: str = field(
        "~/.cache/unmask/xla", "folder of compiled programs, which runs share; empty for none"
    )
    data: LabelledConfig = field(LabelledConfig, "the examples")
    model: ModelConfig = field(ModelConfig, "how the network runs")
    embedding: EmbeddingConfig = field(EmbeddingConfig, "vectors of texts")
    questions: QuestionsConfig = field(QuestionsConfig, "answers in contexts")
    optimizer: OptimizerConfig = field(OptimizerConfig, "the optimiser")
    schedule: ScheduleConfig = field(ScheduleConfig, "the learning rate")
    average: AverageConfig = field(AverageConfig, "the average of each run's weights")
    mesh: MeshConfig = field(MeshConfig, "the devices")
    log: LogConfig = field(LogConfig, "logging")
    eval: EvalConfig = field(EvalConfig, "evaluation")
    checkpoint: CheckpointConfig = field(CheckpointConfig, "checkpoints")
    card: CardConfig = field(CardConfig, "the model card")
    search: SearchConfig = field(SearchConfig, "a search for hyperparameters")
    benchmark: BenchmarkConfig = field(BenchmarkConfig, "several tasks")

    @property
    def members(self) -> tuple["Member", ...]:
        """The runs that are trained together, in order of learning rate and seed."""
        rates = self.learning_rates or (self.optimizer.learning_rate,)
        return tuple(Member(self.seed + i, rate) for rate in rates for i in range(self.seeds))


@dataclass(frozen=True)
class Member:
    """The seed and the learning rate of one run of a population."""

    seed: int
    learning_rate: float


def length_of(max_length: int, room: int, kind: str) -> int:
    """Most tokens of an example: `max_length`, or for 0 the default, limited by the model.

    Args:
      max_length: config.max_length.
      room: most tokens that the model takes.
      kind: config.kind.
    """
    return max_length or min(MAX_LENGTH_OF_QUESTIONS if kind == "questions" else MAX_LENGTH, room)


SEEDS = 2**31
"""Seeds are less than this: they are 32-bit integers on the device."""


def check_values(config: FinetuneConfig) -> None:
    """Refuse values outside their range before any file is read.

    Raises:
      UserError: a value is wrong; the message names a right value.
    """
    check_shared(config)
    _check_counts(config)
    _check_rates(config)
    _check_members(config)
    check_kinds(config.embedding, config.questions)
    check_average(config.average)
    check_card(config.card)
    if not config.init_from:
        raise UserError(
            "no model to start from; set config.init_from to a workdir, a Hugging Face folder or a hub id"
        )


def frozen_layers(freeze: str, layers: int, *, shared: bool = False) -> int | None:
    """The number of layers from below that are not trained: 0 for none, None for the whole encoder.

    Args:
      freeze: config.freeze.
      layers: L, those of the model.
      shared: whether several layers of the model have the same weights.

    Raises:
      UserError: it is neither `encoder` nor a number of layers that the model has, or the layers share their weights.
    """
    if freeze in ("", ENCODER):
        return None if freeze else 0
    if shared:
        raise UserError(
            f"config.freeze={freeze!r} cannot part layers that share their weights: set it to {ENCODER}, or unset it"
        )
    if not freeze.isdecimal() or not 1 <= int(freeze) <= layers:
        raise UserError(
            f"config.freeze={freeze!r} should be {ENCODER}, or a number of layers from 1 to {layers}; empty trains all"
        )
    return int(freeze)


def _check_counts(config: FinetuneConfig) -> None:
    """Refuse impossible numbers of steps, examples and the like."""
    values = schema.flatten(schema.as_dict(config))
    for name in (
        "seeds",
        "epochs",
        "global_batch",
        "grad_accum",
        "log.every",
        "eval.batch",
        "checkpoint.keep",
        "max_skipped",
    ):
        if values[name] < 1:
            raise UserError(f"config.{name}={values[name]} should be 1 or more")
    for name in (
        "eval.every",
        "eval.patience",
        "checkpoint.every",
        "model.scan_unroll",
        "schedule.warmup_steps",
    ):
        if values[name] < 0:
            raise UserError(f"config.{name}={values[name]} should be 0 or more")
    if config.steps < 0:
        raise UserError(f"config.steps={config.steps} should be 1 or more, or 0 for config.epochs")
    if config.steps and config.search.trials:
        raise UserError(
            f"config.steps={config.steps}: the trials of a search train whole epochs; set config.epochs"
        )
    if config.max_length < 0:
        raise UserError(f"config.max_length={config.max_length} should be 1 or more, or 0 for the default")
    if config.global_batch % config.grad_accum:
        raise UserError(
            f"config.global_batch={config.global_batch} is not a multiple of config.grad_accum={config.grad_accum}"
        )


def _check_rates(config: FinetuneConfig) -> None:
    """Refuse impossible learning rates, norms and shares."""
    rates = dict.fromkeys(config.learning_rates, "learning_rates")
    for rate, name in (*rates.items(), (config.optimizer.learning_rate, "optimizer.learning_rate")):
        if not rate > 0:
            raise UserError(f"learning rate {rate} should be above 0; set config.{name}")
    if config.optimizer.clip_norm < 0:
        raise UserError(
            f"config.optimizer.clip_norm={config.optimizer.clip_norm} should be 0 (does not clip) or more"
        )
    if not 0 <= config.label_smoothing < 1:
        raise UserError(f"config.label_smoothing={config.label_smoothing} should be at least 0 and below 1")
    if not 0 <= config.schedule.warmup_ratio <= 1:
        raise UserError(
            f"config.schedule.warmup_ratio={config.schedule.warmup_ratio} should be between 0 and 1"
        )
    if not 0 < config.optimizer.layer_decay <= 1:
        raise UserError(
            f"config.optimizer.layer_decay={config.optimizer.layer_decay} should be above 0, at most 1"
        )


def _check_members(config: FinetuneConfig) -> None:
    """Refuse seeds and learning rates that cannot be trained side by side."""
    if not 0 <= config.seed <= SEEDS - config.seeds:
        raise UserError(
            f"config.seed={config.seed} should be 0 or more, and with config.seeds={config.seeds} at most "
            f"{SEEDS - config.seeds}"
        )
    names = {f"{rate:g}" for rate in config.learning_rates}  # as the results name them
    if len(names) < len(config.learning_rates):
        raise UserError(f"config.learning_rates={list(config.learning_rates)} has one of them twice")
    several = config.seeds > 1 or len(config.learning_rates) > 1
    if config.eval.patience and not config.eval.restore_best and several:
        raise UserError(
            "config.eval.patience ends each run at a step of its own, and config.eval.restore_best=False cannot keep "
            "these steps for several runs; set config.eval.restore_best=True, or train one run"
        )
