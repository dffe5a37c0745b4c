"""Evaluate a fine-tuned model: `python -m finetune.evaluate --model=MODEL --config=configs/glue.py:TASK`.

The model is a fine-tuning workdir, a model's folder or a hub id. It may be a classifier that others trained. Of the
config, the command reads only the fields kind, task, data, embedding, questions, eval.batch, inference and
compilation_cache. With
kind=embedding the model is any encoder, whose vectors are scored on pairs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from absl import flags
from rich.table import Table
from rich.text import Text

from base import terminal
from base.command_line import parse, run
from base.errors import UserError
from base.storage import write_out
from data.labelled.classes import matching, unnamed
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData
from data.labelled.open import open_labelled
from data.labelled.questions import Questions
from finetune.classifier.finetuned_model import Trained, encoder_of, find_model, int8_logits_of, logits_of
from finetune.classifier.inference import Logits
from finetune.config import FinetuneConfig
from finetune.evaluate_vectors import evaluate_vectors
from finetune.job import answering_of, short_split, with_metrics
from finetune.kind_configs import QuestionsConfig
from finetune.kinds import MULTI_LABEL, kind_of
from finetune.kinds.multi_label import THRESHOLD
from finetune.population.evaluation import EvaluationSet, scores_on
from finetune.results.own_metrics import NOT_OF_VECTORS, ComputeMetrics
from finetune.results.results_file import as_json, score
from finetune.texts.question_encoding import Answering
from finetune.unused_fields import unused_in_evaluation
from pretrain.devices.platforms import leave_out_absent_tpu
from pretrain.runtime import train_command


def main(argv: Sequence[str]) -> int:
    """Evaluate the model, and print its scores."""
    leave_out_absent_tpu()
    config, values = parse(FinetuneConfig, argv, _flags, unused=unused_in_evaluation)
    if not values.model:
        raise UserError("no --model given: a fine-tuning run's workdir, a model's folder, or a hub id")
    train_command.log_to_stderr()
    train_command.use_compilation_cache(config.compilation_cache)
    if values.int8 and config.inference != "onnx":
        raise UserError("--int8 compares files of ONNX: set --config.inference=onnx, or leave --int8 out")
    found = evaluate(config, values.model, int8=values.int8)
    if values.out:
        out: dict[str, Any] = {
            "model": values.model,
            "task": found.task,
            "examples": found.examples,
            "metrics": found.metrics,
        }
        out |= {"int8_metrics": found.int8_metrics} if found.int8_metrics else {}
        write_out(values.out, as_json(out), "--out")
    terminal.console().print(
        _table(found.title, values.model, found.metrics, list(found.examples.values()), found.int8_metrics)
    )
    return 0


@dataclass(frozen=True)
class Evaluated:
    """How a model scores."""

    task: str
    """The GLUE task; '' for other examples."""
    title: str
    metrics: dict[str, float]
    examples: dict[str, str]
    """The name of each set, and where its examples come from."""
    int8_metrics: dict[str, float]
    """Those of its weights in int8; empty if they were not asked for."""


def evaluate(
    config: FinetuneConfig, name: str, compute_metrics: ComputeMetrics | None = None, *, int8: bool = False
) -> Evaluated:
    """Evaluate a model on the examples of a config.

    Args:
      config: the examples, and how to evaluate.
      name: the model: a fine-tuning workdir, a model's folder, or a hub id.
      compute_metrics: metrics of the user's own.
      int8: whether to evaluate its ONNX with weights in int8 too.

    Raises:
      UserError: no such model, a model of another task, no labelled examples, or a batch of no rows.
    """
    if config.eval.batch < 1:
        raise UserError(f"config.eval.batch={config.eval.batch} should be 1 or more")
    if config.kind == "embedding":
        if int8:
            raise UserError("--int8 compares classifiers; leave it out for config.kind=embedding")
        if compute_metrics is not None:
            raise UserError(NOT_OF_VECTORS)
        data, metrics = evaluate_vectors(config, name)
        return Evaluated(data.task.name, data.task.title, metrics, _origins(data), {})
    model = find_model(name, inference=config.inference)
    _check_kind(config, model)
    data = open_labelled(
        config.data if config.task else _asked_of(config.data, model),
        config.task,
        parts=("evaluations",),
        ids=bool(config.data.label_names) or unnamed(model.names),
        hold_out=bool(config.data.train) or config.data.source == "hub",
        per_word=model.kind.per_token,
        questions=model.kind.extracts,
    )
    _check_labels(data, model)
    if not data.evaluations:
        raise UserError(
            f"{data.task.title} has no labelled examples to evaluate on; set config.data.validation"
        )
    if compute_metrics is not None:
        data = with_metrics(data, model.kind, compute_metrics)
    order = class_order(model.names, data.task.labels, name) if not model.kind.extracts else slice(None)
    encoder = encoder_of(model, _answering(config, model, data))
    sets = [
        EvaluationSet(short_split(split, len(data.evaluations)), encoder(examples))
        for split, examples in data.evaluations.items()
    ]

    def scores(ask: Logits) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for part in sets:
            logits = ask(part.encoded)[:, order]
            if not np.isfinite(logits).all():
                raise UserError(f"--model={name} gives logits that are no numbers; its training has diverged")
            metrics |= scores_on(part, logits, data.task, model.facts.threshold or THRESHOLD)
        return metrics

    return Evaluated(
        data.task.name,
        data.task.title,
        scores(logits_of(model, inference=config.inference, batch=config.eval.batch)),
        _origins(data),
        scores(int8_logits_of(model, batch=config.eval.batch)) if int8 else {},
    )


def _origins(data: LabelledData) -> dict[str, str]:
    """Where the examples of each evaluation set come from."""
    return {split: examples.origin for split, examples in data.evaluations.items()}


def _asked_of(data: LabelledConfig, model: Trained) -> LabelledConfig:
    """The data config for this model. For a user's own files, the classes are the model's unless the config has them.

    Raises:
      UserError: the labels are scores, but the model predicts classes.
    """
    if data.source not in ("files", "hub"):
        return data
    if data.regression and model.names:
        answers = ", ".join(model.names)
        raise UserError(
            f"config.data.regression=True means scores, but --model={model.given} answers {answers}; unset it"
        )
    if data.label_names or data.train:
        return data
    return replace(data, label_names=model.names, regression=not model.names)


def _check_kind(config: FinetuneConfig, model: Trained) -> None:
    """Refuse a config.kind that is not the model's.

    Raises:
      UserError: it is not.
    """
    what, right = "labels texts", "sequence"
    if model.kind.per_token:
        what, right = "labels words", "tokens"
    if model.kind.extracts:
        what, right = "answers questions", "questions"
    if config.kind != right:
        raise UserError(f"--model={model.given} {what}; set config.kind={right}")


def _answering(config: FinetuneConfig, model: Trained, data: LabelledData) -> Answering | None:
    """How answers to questions are chosen: as the model was fine-tuned, or as the config says where it says so."""
    if not model.kind.extracts:
        return None
    given, default = config.questions, QuestionsConfig()
    sets = [each for each in data.evaluations.values() if isinstance(each, Questions)]
    known = model.facts.answering
    if not model.facts.longest_answer:
        known = answering_of(config, next((each for each in sets if each.lack_answers), sets[0]))
    if given.stride:
        known = replace(known, stride=given.stride)
    if given.max_answer_length != default.max_answer_length:
        known = replace(known, longest_answer=given.max_answer_length)
    if given.no_answer_threshold != default.no_answer_threshold:
        known = replace(known, no_answer=given.no_answer_threshold)
    return known


def _check_labels(data: LabelledData, model: Trained) -> None:
    """Refuse examples with several labels for a model that gives one, and the reverse.

    Raises:
      UserError: they differ.
    """
    task = kind_of(data.task)
    if task is not model.kind and MULTI_LABEL in (task, model.kind):
        raise UserError(
            f"--model={model.given} gives an example {model.kind.per_example}, but one of {data.task.title} has "
            f"{task.per_example}"
        )


def class_order(names: Sequence[str], labels: Sequence[str], model: str) -> list[int]:
    """The index of the model's class for each label of a task.

    Names are compared without regard to case. If the model's classes have no names, the ids are compared.

    Args:
      names: names of the model's classes, by id.
      labels: the task's labels, by id.
      model: the model, for messages.

    Raises:
      UserError: the model's classes are not the task's labels.
    """
    if len(names) != len(labels):
        theirs = ", ".join(names) or "a score"
        raise UserError(
            f"--model={model} is for another task: it answers {theirs}, the task has {', '.join(labels) or 'a score'}"
        )
    if not labels:
        return [0]
    order = matching(names, labels)
    if None in order and unnamed(names):
        return list(range(len(labels)))
    missing = [label for label, index in zip(labels, order, strict=True) if index is None]
    if missing:
        raise UserError(
            f"--model={model} is for another task: it has the classes {', '.join(names)}, not {', '.join(missing)}"
        )
    return [index for index in order if index is not None]


def _table(
    title: str, model: str, metrics: dict[str, float], origins: list[str], int8: dict[str, float]
) -> Table:
    shown = Table(
        title=Text(f"{title}: {model}", style="table.title"),
        caption=Text("; ".join(origins), style="table.caption"),
    )
    shown.add_column("metric")
    shown.add_column("score", justify="right")
    if int8:
        shown.add_column("in int8", justify="right")
    for metric, value in metrics.items():
        shown.add_row(metric, score(metric, value), *([score(metric, int8[metric])] if int8 else []))
    return shown


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "model", "", "a fine-tuning run's workdir, a model's folder, or a hub id", flag_values=values
    )
    flags.DEFINE_boolean(
        "int8", False, "with config.inference=onnx: score weights in int8 too", flag_values=values
    )
    flags.DEFINE_string("out", "", "also write the scores to this JSON file", flag_values=values)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(main)
