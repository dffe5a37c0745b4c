"""A fine-tuning run assembled from its config and checked, before anything is compiled."""

import dataclasses
import functools
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from base import hub_ids
from base.errors import UserError
from base.storage import check_readable
from data.labelled.examples import AnyExamples, LabelledData
from data.labelled.open import open_labelled
from data.labelled.questions import Questions
from data.labelled.sentences import Sentences
from finetune.classifier.embedder import load_embedder
from finetune.classifier.network import Classifier
from finetune.classifier.pretrained import Start, load_encoder_for_classification
from finetune.config import ENCODER, FinetuneConfig, check_values, frozen_layers, length_of
from finetune.kinds import kind_of
from finetune.kinds.kind import Kind
from finetune.population import in_turn
from finetune.population.early_stopping import choosing_metric
from finetune.population.evaluation import EvaluationSet
from finetune.population.state import population_mesh
from finetune.population.step_inputs import step_inputs
from finetune.population.train_step import optimizer_of
from finetune.results.own_metrics import ComputeMetrics, with_own_metrics
from finetune.texts.batching import Plan, choose_lengths
from finetune.texts.encoders import Encoder, encoder_for
from finetune.texts.encoding import Encoded
from finetune.texts.look import look
from finetune.texts.look_at_pairs import look_at_pairs
from finetune.texts.look_at_questions import look_at_questions
from finetune.texts.question_encoding import Answering
from pretrain.devices.mesh import BATCH_AXES
from pretrain.models.attention import Use
from pretrain.runtime.workdir import is_workdir
from tokenizer import load as tokenizers
from tokenizer.load import Loaded
from tokenizer.readable import readable

logger = logging.getLogger(__name__)

MODEL = "model"
"""Folder in a fine-tuning workdir that holds its best model, as transformers reads it."""


@dataclass(frozen=True)
class Job:
    """All parts of a run except its state."""

    config: FinetuneConfig
    data: LabelledData
    labels: tuple[str, ...]
    """Names of the classes by id; empty for a score."""
    kind: Kind
    """What the labels are."""
    tokenizer: Loaded
    classifier: Classifier
    params: Any
    """The checkpoint's, as numpy arrays."""
    fresh_head: frozenset[str]
    """The head's modules that the checkpoint does not have."""
    source_config: Mapping[str, Any]
    """config.json of the checkpoint, as transformers has it."""
    mesh: Mesh
    in_turn: bool
    """Whether the runs make their steps one after another."""
    encoder: Encoder
    train: Encoded
    plan: Plan
    evaluations: tuple[EvaluationSet, ...]
    optimizer: optax.GradientTransformationExtraArgs
    inputs: Mapping[str, np.ndarray]
    """What every step takes besides its examples."""
    metric: str
    """The metric that chooses, as evaluations name it."""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return run_steps(self.config, self.plan)

    @property
    def room(self) -> int:
        """Tokens that the model takes at most."""
        return self.classifier.encoder.config.max_length

    @property
    def parameters(self) -> int:
        """Number of parameters of a member."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def look(self) -> list[str]:
        """The first training examples, and counts: see `finetune.texts.look`."""
        token_of = functools.partial(readable, self.tokenizer.tokenizer)
        if self.kind.embeds:
            return look_at_pairs(self.train, token_of, self.config.max_length)
        if self.kind.extracts:
            return look_at_questions(self.train, token_of, self.config.max_length)
        return look(self.train, self.kind.name, self.labels, token_of, self.config.max_length)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the inputs that must not change when the run resumes."""
        return {"tokenizer": self.tokenizer.fingerprint(), "training examples": _fingerprint(self.train)}


def assemble(config: FinetuneConfig, compute_metrics: ComputeMetrics | None = None) -> Job:
    """Check a config, and read and encode what it names.

    Args:
      config: the run's.
      compute_metrics: metrics of the user's own.

    Raises:
      UserError: anything in the config, the data or the checkpoint that cannot work.
    """
    check_values(config)
    mesh = population_mesh(config.mesh, 1 if config.run_members == in_turn.IN_TURN else len(config.members))
    check_batch(config, mesh)
    data, examples = _labelled_data(config)
    kind = kind_of(data.task)
    if compute_metrics is not None:
        data = with_metrics(data, kind, compute_metrics)
    metric = choosing_metric(config.eval.metric, data.task, next(iter(data.evaluations.values())).origin)
    _check_kind(config, kind, data.task.title)
    tokenizer, start = _start(config, data.task.labels, kind)
    room = start.classifier.encoder.config.max_length
    if config.max_length > room:
        raise UserError(
            f"config.max_length={config.max_length} is longer than the model's positions; set it to {room} or less"
        )
    config = dataclasses.replace(config, max_length=length_of(config.max_length, room, config.kind))
    network = start.classifier.encoder.config
    shared = network.stacked_layers < network.num_hidden_layers
    frozen_layers(config.freeze, network.num_hidden_layers, shared=shared)
    encoder = encoder_for(
        kind,
        tokenizer,
        max_length=config.max_length,
        token_types=start.classifier.token_types,
        pieces=config.data.pieces,
        answering=answering_of(config, examples),
    )
    train = _encoded(encoder, examples, "train")
    evaluations = tuple(
        EvaluationSet(short_split(name, len(data.evaluations)), _encoded(encoder, examples, name))
        for name, examples in data.evaluations.items()
    )
    longest = max(int(part.lengths.max()) for part in (train, *(each.encoded for each in evaluations)))
    plan = Plan.of(train.lengths, _lengths(config, train, longest), config.global_batch)
    return Job(
        config=config,
        data=data,
        labels=data.task.labels,
        kind=kind,
        tokenizer=tokenizer,
        classifier=start.classifier,
        params=start.params,
        fresh_head=start.fresh_head,
        source_config=start.config,
        mesh=mesh,
        in_turn=in_turn.chosen(config, mesh),
        encoder=encoder,
        train=train,
        plan=plan,
        evaluations=evaluations,
        optimizer=optimizer_of(config, start.classifier),
        inputs=step_inputs(config, run_steps(config, plan)),
        metric=f"{evaluations[0].name}/{metric}" if len(evaluations) > 1 else metric,
    )


def _check_kind(config: FinetuneConfig, kind: Kind, title: str) -> None:
    """Refuse settings that this kind of labels cannot have.

    Raises:
      UserError: there is one.
    """
    if config.label_smoothing and kind.refuses_smoothing:
        raise UserError(
            f"config.label_smoothing={config.label_smoothing} spreads a share of one class over all, but an example of "
            f"{title} has {kind.per_example}; unset it"
        )
    if kind.embeds and config.freeze == ENCODER:
        raise UserError(
            "config.freeze='encoder' trains the head alone, but config.kind='embedding' has none; set it to a number"
        )


def _labelled_data(config: FinetuneConfig) -> tuple[LabelledData, AnyExamples]:
    """The labelled data of a run, and the examples to train on.

    Raises:
      UserError: there are none to train on, or none to evaluate on.
    """
    data = open_labelled(
        config.data,
        config.task,
        hold_out=True,
        per_word=config.kind == "tokens",
        pairs=config.kind == "embedding",
        questions=config.kind == "questions",
    )
    if data.train is None and config.data.source == "files":
        raise UserError("config.data.train is empty; set it to the files to train on")
    if data.train is None or not data.evaluations:
        raise UserError(
            f"{data.task.title} has no {'training' if data.train is None else 'evaluation'} examples: it cannot be "
            "trained on; label it with a trained model by python -m finetune.predict"
        )
    return data, data.train


def answering_of(config: FinetuneConfig, examples: AnyExamples) -> Answering:
    """How answers to questions are chosen: a question may have none if some of `examples` have none."""
    given = config.questions
    lack = isinstance(examples, Questions) and examples.lack_answers
    return Answering(given.stride, given.max_answer_length, given.no_answer_threshold if lack else None)


def with_metrics(data: LabelledData, kind: Kind, function: ComputeMetrics) -> LabelledData:
    """The data of a task that has the user's metrics too; the function is tried on the first evaluation set."""
    first = next(iter(data.evaluations.values()))
    assert first.labels is not None
    sentences = first.sentence if isinstance(first, Sentences) else None
    task = with_own_metrics(data.task, kind, function, first.labels, sentences)
    return dataclasses.replace(data, task=task)


def _start(config: FinetuneConfig, labels: Sequence[str], kind: Kind) -> tuple[Loaded, Start]:
    """The tokenizer and the classifier that a run starts from.

    Raises:
      UserError: one of them cannot be loaded, or they do not belong together.
    """
    model_source, tokenizer_source = sources(config.init_from)
    tokenizer = tokenizers.load(tokenizer_source)
    lengths, field = config.lengths, "config.lengths"
    if not lengths and config.max_length:
        lengths, field = (config.max_length,), "config.max_length"
    use = Use(
        row_lengths=lengths, row_field=field, dropout_field="config.model.attention_dropout", packed=False
    )
    how: dict[str, Any] = {
        "dtype": config.dtype,
        "overrides": _overrides(config),
        "weights": config.init_weights,
        "use": use,
    }
    if kind.embeds:
        start, _ = load_embedder(model_source, **vars(config.embedding), **how)
    else:
        start = load_encoder_for_classification(
            model_source, labels=labels, kind=kind, seed=config.seed, **how
        )
    rows = start.classifier.encoder.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"config.init_from={config.init_from!r}: its tokenizer has {tokenizer.vocab_size} tokens, its model "
            f"embeddings for {rows}; they do not belong together"
        )
    return tokenizer, start


def run_steps(config: FinetuneConfig, plan: Plan) -> int:
    """Steps of the whole run."""
    return config.steps or config.epochs * plan.steps


def sources(init_from: str) -> tuple[str, str]:
    """Where the model and the tokenizer of `init_from` are: a workdir of either stage, a folder, or a hub id."""
    path = epath.Path(init_from).expanduser()
    check_readable(path, "config.init_from")
    if (path / MODEL / "config.json").exists():
        return str(path / MODEL), str(path / MODEL)
    if is_workdir(path):
        if not (path / "tokenizer").exists():
            raise UserError(
                f"config.init_from={init_from!r} is a fine-tuning run that has not finished; finish it, or set another"
            )
        return str(path), str(path / "tokenizer")
    if not path.exists() and not hub_ids.is_id(hub_ids.parted(init_from)[0]):
        raise UserError(
            f"config.init_from={init_from!r}: there is no such folder; set it to a workdir, a Hugging Face folder or a "
            "hub id (OWNER/NAME)"
        )
    return init_from, init_from


def _overrides(config: FinetuneConfig) -> dict[str, Any]:
    """Fields of the network that the config sets in place of the checkpoint's."""
    model = config.model
    given = {
        "hidden_dropout_prob": model.dropout,
        "classifier_dropout": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "pooling": model.pooling or None,
    }
    how = {
        "attention": model.attention,
        "remat": model.remat,
        "scan_unroll": model.scan_unroll,
    }
    return {**{name: value for name, value in given.items() if value is not None}, **how}


def _encoded(encoder: Encoder, examples: AnyExamples, name: str) -> Encoded:
    encoded = encoder(examples)
    if encoded.truncated and encoded.words is not None:
        logger.info(
            "%s: %d of %d sentences are longer than config.max_length and become several rows, %d rows in all",
            *(name, encoded.truncated, len(examples), len(encoded)),
        )
    elif encoded.truncated and encoded.spans is not None:
        logger.info(
            "%s: %d of %d contexts are longer than config.max_length and become several windows, %d in all",
            *(name, encoded.truncated, len(examples), len(encoded)),
        )
    elif encoded.truncated:
        logger.info(
            "%s: %d of %d examples are cut to config.max_length", name, encoded.truncated, len(encoded)
        )
    return encoded


def _lengths(config: FinetuneConfig, train: Encoded, longest: int) -> tuple[int, ...]:
    """The row lengths of the run; the last holds the longest example of all sets."""
    if config.lengths:
        if max(config.lengths) < longest or min(config.lengths) < 1:
            raise UserError(
                f"config.lengths={list(config.lengths)} does not hold the longest example, {longest} tokens; "
                "add its length, or lower config.max_length"
            )
        if max(config.lengths) > config.max_length:
            raise UserError(
                f"config.lengths={list(config.lengths)} goes beyond config.max_length={config.max_length}"
            )
        return tuple(sorted(set(config.lengths)))
    chosen = choose_lengths(train.lengths, config.max_length)
    last = min(-(-longest // 8) * 8, config.max_length)
    return tuple(sorted({*(length for length in chosen if length < last), last}))


def short_split(split: str, count: int) -> str:
    """A split's name in results: 'matched' for 'validation_matched'; '' if it is the only split."""
    return split.removeprefix("validation_") if count > 1 else ""


def check_batch(config: FinetuneConfig, mesh: Mesh) -> None:
    """Refuse a batch that the mesh does not divide.

    Raises:
      UserError: it does not.
    """
    across = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    micro = config.global_batch // config.grad_accum
    if micro % across:
        raise UserError(
            f"config.global_batch={config.global_batch} in {config.grad_accum} micro-batches is {micro} rows, which "
            f"{across} devices (config.mesh replica x data x zero1 x fsdp, less those that the runs are spread over) "
            "do not divide; change one of them"
        )


def _fingerprint(encoded: Encoded) -> str:
    digest = hashlib.sha256()
    words = () if encoded.words is None else (encoded.words.rows, encoded.words.places)
    texts = () if encoded.text_lengths is None else (encoded.text_lengths,)
    for array in (encoded.tokens, encoded.token_types, encoded.lengths, encoded.labels, *words, *texts):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
