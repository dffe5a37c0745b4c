"""Find a fine-tuned model by its name (a workdir, a folder, a hub id), and load it for inference."""

import contextlib
import math
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etils import epath

from base import terminal
from base.errors import UserError
from base.storage import check_readable
from finetune.classifier.inference import FACTS_FILE, Facts, JaxModel, Logits, OnnxModel, row_lengths
from finetune.classifier.pretrained import learned_classes, load_encoder_for_classification
from finetune.job import MODEL
from finetune.kinds import CLASSES, EMBEDDING, MULTI_LABEL, QUESTIONS, SCORES, TOKENS
from finetune.kinds.kind import Kind
from finetune.onnx import FILE_NAME as ONNX_FILE
from finetune.onnx import INT8_NAME, check_installed, export_onnx
from finetune.onnx_int8 import write_int8
from finetune.population.state import population_mesh
from finetune.texts.encoders import Encoder, encoder_for
from finetune.texts.question_encoding import STRIDE_SHARE, Answering
from pretrain.config import MeshConfig
from pretrain.models import EncoderConfig, huggingface
from pretrain.models.huggingface import CONFIG, download_model, parse_config, read_config
from pretrain.runtime.workdir import MODEL_FILE, is_workdir
from tokenizer import load as tokenizers
from tokenizer import tokenizer_files

FILES = (
    CONFIG,
    "tokenizer*",
    tokenizer_files.SPECIAL_TOKENS_MAP,
    tokenizer_files.ADDED_TOKENS,
    FACTS_FILE,
)
"""What is fetched of a model on the hub beside its weights."""
FLAGS = {
    "config.max_length": "--max_length",
    "config.init_from": "--model",
    "config.tokenizer.path": "--model",
}
"""Fields of a run's config that messages may name, and the flags that replace them in a command without a config."""


@dataclass(frozen=True)
class Trained:
    """A fine-tuned model before its weights are read."""

    given: str
    """As --model names it."""
    folder: epath.Path
    downloaded: bool
    """Whether the folder is in the hub client's cache, where nothing may be written."""
    kind: Kind
    """What its answers are."""
    names: tuple[str, ...]
    """Names of the classes, by id; () if the model gives a score."""
    config: EncoderConfig
    facts: Facts
    max_length: int
    """Tokens that its examples are cut to."""


def find_model(model: str, *, inference: str = "jax", max_length: int = 0) -> Trained:
    """What --model names.

    Args:
      model: a run's workdir, a model's folder, or a hub id.
      inference: what will run it, jax or onnx.
      max_length: tokens to cut examples to; 0 is what the model was fine-tuned with where that is known, else what its
        tokenizer says (model_max_length), and never more than the model takes.

    Raises:
      UserError: nothing there, no classifier, or a length that it does not take.
    """
    path = epath.Path(model).expanduser()
    check_readable(path, "--model")
    downloaded = False
    if (path / MODEL / CONFIG).exists():
        folder = path / MODEL
    elif (path / MODEL_FILE).exists():
        start = shlex.quote(f"--config.init_from={model}")
        raise UserError(
            f"--model={model} is a run of pretraining, which labels nothing; fine-tune it, with the recipe of its task "
            "(configs/classify.py, glue.py, tokens.py, embedding.py or questions.py): "
            f"python -m finetune --config=configs/classify.py {start} --workdir=DIR"
        )
    elif is_workdir(path):
        raise UserError(f"--model={model} is a run that has not finished; run its command again")
    elif path.exists():
        folder = path
    else:
        folder = download_model(model, [*FILES, f"{ONNX_FILE}*"] if inference == "onnx" else list(FILES))
        downloaded = True
    values = read_config(str(folder))
    kind, names = answers_of(values, model)
    config, facts = parse_config(values, str(folder / CONFIG)), Facts.read(folder)
    room = config.max_length
    if not 0 <= max_length <= room:
        raise UserError(
            f"--max_length={max_length} is no length that the model takes; set it to {room} or less"
        )
    length = max_length or min(facts.max_length or _stated_length(folder) or room, room)
    return Trained(model, folder, downloaded, kind, names, config, facts, length)


def _stated_length(folder: epath.Path) -> int:
    """The model_max_length of a folder's tokenizer; 0 where it is not stated."""
    file = folder / tokenizer_files.CONFIG
    stated = tokenizer_files.json_object({file.name: file.read_bytes()} if file.exists() else {}, file.name)
    length = stated.get("model_max_length", stated.get("max_len"))
    return int(length) if isinstance(length, int | float) and 0 < length < math.inf else 0


def answers_of(values: Mapping[str, Any], model: str) -> tuple[Kind, tuple[str, ...]]:
    """What a model's answers are by its config.json, and the classes by id; () of a model that gives a score.

    Raises:
      UserError: it is not a classifier's.
    """
    classes = huggingface.class_names(values)
    if any(name.endswith(QUESTIONS.task_class) for name in classes):
        return QUESTIONS, ()
    per_word = any(name.endswith(TOKENS.task_class) for name in classes)
    if any(name.endswith(EMBEDDING.task_class) for name in classes) and not per_word:
        raise UserError(
            f"--model={model} is a {classes[0]}, which gives vectors and no labels: python -m finetune.embed "
            f"{shlex.quote(f'--model={model}')} --text=FILE --out=vectors.npy; for labels, fine-tune it first"
        )
    if classes and not per_word and not any(name.endswith(CLASSES.task_class) for name in classes):
        raise UserError(f"--model={model} is a {classes[0]}, which labels nothing; fine-tune it first")
    names = learned_classes(values, f"--model={model}")
    if per_word:
        return TOKENS, names
    if values.get("problem_type") == MULTI_LABEL.problem_type:
        return MULTI_LABEL, names
    return (CLASSES, names) if len(names) > 1 else (SCORES, ())


def encoder_of(model: Trained, answering: Answering | None = None) -> Encoder:
    """The encoder that turns texts into examples for a model.

    Args:
      model: the model.
      answering: how answers to questions are chosen; None is what the model's fine-tuning fixed.

    Raises:
      UserError: no tokenizer, one that is not the model's own, or a length without room for text.
    """
    with naming_flags():
        tokenizer = tokenizers.load(str(model.folder))
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"--model={model.given}: its tokenizer has {tokenizer.vocab_size} tokens, its model embeddings for "
                f"{model.config.vocab_size}; they do not belong together"
            )
        answering = answering or model.facts.answering
        if model.max_length < model.facts.max_length and answering.stride > model.max_length // STRIDE_SHARE:
            answering = replace(answering, stride=0)  # windows of shorter rows cannot share as much
        return encoder_for(
            model.kind,
            tokenizer,
            max_length=model.max_length,
            token_types=model.config.type_vocab_size,
            answering=answering,
        )


def logits_of(model: Trained, *, inference: str, batch: int) -> Logits:
    """Load a model for inference with jax or onnx, in batches of `batch` rows.

    Raises:
      UserError: damaged weights, or none of a classifier; ONNX without its libraries.
    """
    lengths = row_lengths(model.max_length)
    if inference == "onnx":
        return _onnx_model(model, lengths, batch)
    start = load_encoder_for_classification(str(model.folder), model.names, kind=model.kind)
    if start.fresh_head:
        task = f"{len(model.names)} classes" if model.names else "a score"
        task = "questions" if model.kind.extracts else task
        raise UserError(f"--model={model.given} has no head for {task}; fine-tune it first")
    mesh = population_mesh(MeshConfig(), 1)
    return JaxModel(start.classifier, start.params, mesh, lengths=lengths, batch=batch)


def int8_logits_of(model: Trained, *, batch: int) -> Logits:
    """Load the model_quantized.onnx of a model's folder, which is made where there is none.

    Raises:
      UserError: as for `logits_of` with onnx; a folder that cannot be written to.
    """
    lengths = row_lengths(model.max_length)
    _onnx_model(model, lengths, batch)
    folder = Path(model.folder)
    if not (folder / INT8_NAME).exists():
        if model.downloaded or not os.access(folder, os.W_OK):
            raise UserError(
                f"--int8 writes {INT8_NAME} to the folder of --model={model.given}: copy it first"
            )
        terminal.say(f"{model.given} has no {INT8_NAME} yet; making it", error=True)
        write_int8(folder)
    return OnnxModel(folder, lengths=lengths, batch=batch, name=INT8_NAME)


def _onnx_model(model: Trained, lengths: tuple[int, ...], batch: int) -> OnnxModel:
    """The model's model.onnx; where there is none it is made, and kept beside a model of the user's own."""
    if "://" in str(model.folder):
        raise UserError(
            f"--inference=onnx runs a file of a local folder, which --model={model.given} is not; copy it first"
        )
    folder = Path(model.folder)
    if (folder / ONNX_FILE).exists():
        return OnnxModel(folder, lengths=lengths, batch=batch)
    check_installed(f"--inference=onnx, as {model.given} has no {ONNX_FILE} yet,")
    terminal.say(f"{model.given} has no {ONNX_FILE} yet; making it", error=True)
    if not model.downloaded and os.access(folder, os.W_OK):
        return OnnxModel(export_onnx(folder).parent, lengths=lengths, batch=batch)
    with tempfile.TemporaryDirectory() as made:
        return OnnxModel(export_onnx(folder, made).parent, lengths=lengths, batch=batch)


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """In messages that name fields of a run's config, name this command's flags instead."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for name, flag in FLAGS.items():
            message = message.replace(name, flag)
        raise UserError(message) from error
