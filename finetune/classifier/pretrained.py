"""Classifiers from and to the Hugging Face ecosystem, and from workdirs of pretraining.

Loading follows from_pretrained of transformers' AutoModelForSequenceClassification (or ...TokenClassification): a part
that the checkpoint does not have is drawn afresh. Parts of the head that it has (BERT's pooler, ModernBERT's prediction
head) are loaded.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from base.errors import UserError
from base.private_paths import without_places
from data.labelled.classes import matching, unnamed
from finetune.classifier.heads import OUT, HeadConfig, classifier_head, head_config
from finetune.classifier.network import Classifier, build_classifier
from finetune.kinds import of_labels
from finetune.kinds.kind import Kind
from pretrain.models import EncoderConfig, Params, families
from pretrain.models.attention import NOTHING_KNOWN, Use
from pretrain.models.families.family import Family
from pretrain.models.huggingface import (
    CONFIG,
    Published,
    class_names,
    config_dict,
    read_published,
    write_config,
    write_weights,
)
from pretrain.models.tensor_names import BUFFERS, Tensor, check, empty_params, fill, with_current_names
from pretrain.runtime.workdir import MODEL_FILE, is_workdir
from pretrain.trained_network import check_weights, trained_network
from tokenizer.load import Loaded

logger = logging.getLogger(__name__)

MOST_CLASSES = 10**6
REPLACED = ("_name_or_path", "torch_dtype", "num_labels", "auto_map", "custom_pipelines")
"""Fields of a checkpoint's config.json that do not hold for the model that was made of it."""
HIDDEN, HEAD, ATTENTION = "hidden_dropout_prob", "classifier_dropout", "attention_probs_dropout_prob"
POOLING = "pooling"


@dataclass(frozen=True)
class Start:
    """A classifier and what it starts from."""

    classifier: Classifier
    params: Params
    """Numpy arrays, float32."""
    fresh_head: frozenset[str]
    """The head's modules that the checkpoint does not have, drawn from the seed; empty where it has them all."""
    config: dict[str, Any]
    """The checkpoint's config.json."""


def load_encoder_for_classification(
    source: str,
    labels: Sequence[str],
    *,
    seed: int = 0,
    dtype: str = "float32",
    overrides: Mapping[str, Any] | None = None,
    use: Use = NOTHING_KNOWN,
    weights: str = "raw",
    kind: Kind | None = None,
) -> Start:
    """A classifier that starts from a pretrained encoder, or from another classifier.

    Args:
      source: a workdir of pretraining (its newest checkpoint); a folder with config.json and model.safetensors, of any
        class of transformers; or such a model's hub id.
      labels: names of the classes, in the order of their ids; () for regression.
      seed: of what is drawn afresh.
      dtype: compute type, float32 or bfloat16.
      overrides: fields to set in place of the checkpoint's: hidden_dropout_prob (all dropout of hidden states),
        classifier_dropout, attention_probs_dropout_prob, pooling (of classified texts), attention, remat, scan_unroll.
      use: what the run asks of the attention kernel.
      weights: of a workdir: "raw", as they were trained, or their "average".
      kind: what the labels are; None is one class of a text, or a score.

    Raises:
      UserError: nothing there, a damaged file, or tensors that do not fit the config; they are named.
    """
    folder = epath.Path(source).expanduser()
    kind = kind or of_labels(tuple(labels))
    ours = is_workdir(folder)
    if ours:
        trained = trained_network(folder, weights=weights)
        file, config = str(folder / MODEL_FILE), trained.encoder
        values = config_dict(config)
    else:
        file = source
        check_weights(weights, source)
        published = read_published(source)
        values, config = published.values, published.config
    overrides = dict(overrides or {})
    values = dict(_with_pooling(config, values, kind, overrides.pop(POOLING, "")))
    head_of = head_config(config, values, file, kind.head)
    classifier = build_classifier(
        *overridden(config, head_of, _meant(config, kind, overrides)),
        kind.outputs or max(len(labels), 1),
        dtype=dtype,
        use=use,
        kind=kind,
    )
    if not ours:
        _check_encoder(published, classifier)  # before arrays are made by what its config.json says
    head = jax.tree.map(np.asarray, classifier.init_head(jax.random.key(seed)))
    if ours:
        params = {part: tree for part, tree in trained.params.items() if part != "head"}
        params, fresh = params | {"head": head}, frozenset(head)
    else:
        params, fresh = _read(published, classifier, head)
    if OUT in fresh:
        what = "questions" if kind.extracts else _task(labels)
        logger.info("%s has no head for %s; a fresh one is drawn", source, what)
    elif kind.extracts:
        logger.info("the head of %s finds answers to questions, and is taken as it is", source)
    elif labels:
        order = _class_order(learned_classes(values, source, len(labels)), labels, source)
        params = params | {"head": params["head"] | {OUT: _in_order(params["head"][OUT], order)}}
    else:
        logger.info("the head of %s gives a score, and is taken as it is", source)
    return Start(classifier, params, fresh, values)


def _meant(config: EncoderConfig, kind: Kind, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides; without the dropout of the head, where transformers has none in it."""
    has_dropout = bool(classifier_head(config, kind.head).dropout)
    return {name: value for name, value in overrides.items() if name != HEAD or has_dropout}


def _with_pooling(
    config: EncoderConfig, values: Mapping[str, Any], kind: Kind, pooling: str
) -> Mapping[str, Any]:
    """The values of a config.json, with another pooling of texts.

    Raises:
      UserError: a family without a choice, or without this one.
    """
    if not pooling:
        return values
    head = classifier_head(config, kind.head)
    if POOLING not in head.extra:
        raise UserError(
            f"config.model.pooling={pooling!r}: model_type={config.model_type!r} has one way to classify a text; "
            "unset it"
        )
    if pooling not in head.poolings:
        raise UserError(
            f"config.model.pooling={pooling!r} should be one of {', '.join(head.poolings)}, or empty for the "
            "checkpoint's"
        )
    return {**values, head.extra[POOLING][0]: pooling}


def overridden(
    config: EncoderConfig, head: HeadConfig, overrides: Mapping[str, Any]
) -> tuple[EncoderConfig, HeadConfig]:
    """Both configs with some fields set otherwise."""
    fields = dict(overrides)
    if HEAD in fields:
        head = dataclasses.replace(head, dropout=fields.pop(HEAD))
    if HIDDEN in fields:
        try:
            config = config.with_hidden_dropout(fields.pop(HIDDEN))
        except UserError as error:
            raise UserError(f"config.model.dropout sets {error}") from error
    return dataclasses.replace(config, **fields), head


def _read(published: Published, classifier: Classifier, head: Params) -> tuple[Params, frozenset[str]]:
    """Params of a checkpoint, with missing modules of the head from `head`, and the names of the missing modules."""
    config, where = classifier.encoder.config, published.source
    family = config.family
    state = with_current_names(config, published.state)
    wanted = classifier.tensors()
    heads = [tensor for tensor in wanted if tensor.path[0] == "head"]
    kept = {tensor.path[1] for tensor in heads if tensor.name in state}
    is_task = _is_task(published, classifier.kind.task_class)
    kept = set(head) if is_task and _fits(heads, state) else kept - {OUT}
    wanted = [tensor for tensor in wanted if tensor.path[0] != "head" or tensor.path[1] in kept]
    check(wanted, state, config, where, known=of_encoder(state, family))
    params = empty_params(classifier.shapes()) | {"head": jax.tree.map(np.copy, head)}
    fill(params, wanted, state)
    return params, frozenset(set(head) - kept)


def _check_encoder(published: Published, classifier: Classifier) -> None:
    """Refuse a checkpoint whose tensors are not those of the encoder that its config.json describes.

    Raises:
      UserError: they are not.
    """
    state = with_current_names(classifier.encoder.config, published.state)
    wanted = [tensor for tensor in classifier.tensors() if tensor.path[0] != "head"]
    known = of_encoder(state, classifier.encoder.config.family)
    head = [tensor.name for tensor in classifier.tensors() if tensor.path[0] == "head"]
    known = [name for name in known if name not in head]
    check(wanted, state, classifier.encoder.config, published.source, known=known)


def _is_task(published: Published, task_class: str) -> bool:
    """Whether the model's class is a classifier of the same kind, or a class without a task in its name."""
    classes = class_names(published.values)
    return any(name.endswith(task_class) for name in classes) or not any("For" in name for name in classes)


def _fits(head: Sequence[Tensor], state: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict has a map to the head's number of logits."""
    out = [tensor for tensor in head if tensor.path[1] == OUT]
    return any(tensor.name in state and state[tensor.name].shape == tensor.shape for tensor in out)


def of_encoder(state: Mapping[str, Any], family: Family) -> list[str]:
    """Names of a state dict that must be tensors of the encoder: no buffers, no pooler, nothing that is ignored."""
    base = family.base
    passed = (*BUFFERS, f"{base}.pooler.", *family.ignored)
    return [
        name for name in state if name.startswith(f"{base}.") and not any(part in name for part in passed)
    ]


def _task(labels: Sequence[str]) -> str:
    return f"{len(labels)} classes" if labels else "a score"


def learned_classes(values: Mapping[str, Any], where: str, count: int = 2) -> tuple[str, ...]:
    """The names of a classifier's classes by id, as its config.json has them; LABEL_0, ... where it names none.

    Args:
      values: the contents of config.json.
      where: whose it is, for messages.
      count: the number of classes where it does not say.

    Raises:
      UserError: ids that are no numbers.
    """
    named = values.get("id2label")
    if not isinstance(named, Mapping):
        count = values.get("num_labels", count)
        if not (isinstance(count, int) and 0 < count <= MOST_CLASSES):
            raise UserError(f"{where}: num_labels={count!r} in its {CONFIG} should be a number of classes")
        return tuple(f"LABEL_{index}" for index in range(count))
    try:
        return tuple(str(named[index]) for index in sorted(named, key=int))
    except ValueError:
        raise UserError(f"{where}: the ids of id2label in its {CONFIG} should be numbers") from None


def _class_order(learned: Sequence[str], labels: Sequence[str], source: str) -> list[int]:
    """For each class of the task, the row of the kept head that has learned it. Logs how the classes were matched.

    Classes are matched by their names, in any case. Where the head has no names, or other ones, rows are taken in the
    order of their ids.
    """
    rows = list(range(len(labels)))
    found = matching(learned, labels)
    if len(learned) != len(labels) or (None in found and unnamed(learned)):
        why = (
            "it has no names for its classes, which"
            if unnamed(learned)
            else f"its {CONFIG} names {len(learned)} classes, not {len(labels)}: its rows"
        )
        logger.info(
            "the head of %s is kept; %s are taken for %s in this order", source, why, ", ".join(labels)
        )
        return rows
    if None in found:
        logger.warning(
            "the head of %s is kept, but its classes are %s and not %s",
            *(source, ", ".join(learned), ", ".join(labels)),
        )
    elif found == rows:
        logger.info("the head of %s has learned these classes, and is taken as it is", source)
    else:
        logger.info(
            "the head of %s is kept, its rows put in the order of the classes: %s, not %s",
            *(source, ", ".join(labels), ", ".join(learned)),
        )
    left = iter(row for row in rows if row not in found)
    return [next(left) if row is None else row for row in found]


def _in_order(out: Params, rows: Sequence[int]) -> Params:
    """The map to logits, kernel [E, C] and bias [C], with its classes in another order."""
    return {name: array[..., list(rows)] for name, array in out.items()}


def save_classifier(
    folder: epath.PathLike,
    classifier: Classifier,
    params: Params,
    config: Mapping[str, Any],
    labels: Sequence[str],
    tokenizer: Loaded | None = None,
    *,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write a folder that transformers' auto class for the task (and AutoTokenizer) load; config.json last.

    Args:
      folder: local or gs://, made if need be.
      classifier: the network.
      params: its params, numpy or jax arrays.
      config: the config.json of the checkpoint that it started from.
      labels: names of the classes, in the order of their ids; () for regression.
      tokenizer: to put beside the model, told the model's length; None writes none.
      beside: other files, by name.
    """
    out = epath.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    encoder = classifier.encoder.config
    if tokenizer is not None:
        tokenizer.save(out, model_max_length=encoder.max_length)
    for name, content in (beside or {}).items():
        (out / name).write_bytes(content)
    write_weights(out, {tensor.name: tensor.of(params) for tensor in classifier.tensors()})
    write_config(out, _task_config(encoder.model_type, config, labels, classifier.kind))


def _task_config(
    model_type: str, config: Mapping[str, Any], labels: Sequence[str], kind: Kind
) -> dict[str, Any]:
    """The config.json of a classifier that started from a checkpoint with the config.json `config`."""
    names = list(labels) or ["LABEL_0"]
    problem = {} if kind.problem_type is None else {"problem_type": kind.problem_type}
    classes = {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    replaced = REPLACED if problem else (*REPLACED, "problem_type")
    if kind.extracts:  # transformers gives a model without names two labels: start and end
        replaced, classes = (*replaced, *classes), {}
    return {name: value for name, value in without_places(config).items() if name not in replaced} | {
        "architectures": [f"{families.get(model_type).classes}{kind.task_class}"],
        "model_type": model_type,
        "dtype": "float32",
        **problem,
        **classes,
    }
