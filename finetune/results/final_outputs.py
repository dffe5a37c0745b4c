"""What a finished run leaves in its workdir: its best model, answers to test sets, results.json, a card and a picture.

All of it can be made again from the run's last checkpoint, and comes out the same. If results.json and finished.json
exist, the model and the answers exist too. The card and the picture are written last. If one of them fails, the user
gets a warning, and the next call makes it.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from base.errors import UserError
from base.set_fields import Given, as_begun
from data.labelled.sentences import Sentences
from data.labelled.tasks import EMBEDDING, SIMILARITY
from finetune.classifier.embedder import Embedder, save_embedder
from finetune.classifier.inference import FACTS_FILE, Facts, JaxModel, Logits, OnnxModel, row_lengths
from finetune.classifier.pretrained import save_classifier
from finetune.config import FinetuneConfig
from finetune.job import MODEL, Job
from finetune.kinds.embedding import vectors_of
from finetune.onnx import FILE_NAME as ONNX_FILE
from finetune.onnx import INT8_NAME, export_onnx, remove_files
from finetune.onnx_embedder import OnnxEmbedder, export_embedder
from finetune.population.evaluation import scores_of, scores_on
from finetune.population.state import member_params, population_mesh
from finetune.report.kept import keep_answers
from finetune.report.pages import write_report
from finetune.results import classifier_card, embedder_card, results_file
from finetune.results.predicted_labels import FOLDER, Asked, asked_of, write_answers
from finetune.results.predictions_picture import picture, picture_of_answers, picture_of_ranks
from finetune.results.ranking import ranks
from finetune.resume import changes
from finetune.texts.question_encoding import QuestionEncoder
from finetune.texts.spans import NO_ANSWER, SCORE, texts_of
from finetune.train import Outcome
from pretrain.config import CardConfig
from pretrain.job import NOTHING_SET
from pretrain.models.huggingface import CONFIG, parse_config, read_config
from pretrain.publish import hub_upload
from pretrain.runtime import processes
from pretrain.runtime.optional_outputs import attempt
from pretrain.runtime.workdir import write_bytes, write_finished, write_text

logger = logging.getLogger(__name__)

CARD, PICTURE = "README.md", "predictions.png"
THRESHOLD = "threshold"
"""The metric that holds the threshold of a task with any number of classes."""
REMEDY = "the model and its results are saved; run the same command again to have it"
WITHOUT_ANSWERS = "the model and its results are saved; the report goes without mistakes"


def finished(
    config: FinetuneConfig, workdir: epath.Path, given: Given = NOTHING_SET, *, own_metrics: bool = False
) -> dict[str, Any] | None:
    """The results of a complete run of this config; None if something is left to do, or must be refused.

    Args:
      config: the run's.
      workdir: its folder.
      given: the fields of the config that were set, and where.
      own_metrics: whether there is a function of the user's own. Its metrics are known once it is called, so that
        `train` compares them with the run's.
    """
    if own_metrics:
        return None
    found = results_file.read_results(workdir)
    wanted_files = (workdir / MODEL / CONFIG, workdir / MODEL / CARD, workdir / PICTURE)
    if found is None or not all(file.exists() for file in wanted_files):
        return None
    try:
        room = room_in(workdir)
    except UserError as error:
        logger.warning("%s; the model is written again from the checkpoint", error)
        return None
    config = as_begun(config, found["config"], given)
    changed = list(changes(found["config"], config, room=room))
    if CardConfig(**found["config"].get("card", {})) != config.card:
        changed.append("card")
    wanted = {"onnx": config.inference == "onnx", "predictions": config.eval.tests}
    missing = [name for name, is_wanted in wanted.items() if is_wanted and name not in found]
    return None if changed or missing else found


def room_in(workdir: epath.Path) -> int | None:
    """Tokens that the model of a finished run takes at most; None where there is no model.

    Raises:
      UserError: its config.json is damaged.
    """
    file = workdir / MODEL / CONFIG
    return parse_config(read_config(str(file)), str(file)).max_length if file.exists() else None


def without_score(metric: str, best: Mapping[str, float]) -> str:
    """Why the best run has no score; '' if it has one.

    Args:
      metric: the one that chooses the best run.
      best: the metrics of the best run.
    """
    if math.isfinite(best[metric]):
        return ""
    if any(not math.isfinite(value) for name, value in best.items() if name.rpartition("/")[2] == "loss"):
        return "all have diverged; lower config.optimizer.learning_rate"
    return (
        f"{metric}={best[metric]:g} in all evaluations of the best; set config.eval.metric to another metric"
    )


def finish(outcome: Outcome, workdir: epath.Path) -> dict[str, Any]:
    """Write WORKDIR/model, WORKDIR/predictions, WORKDIR/results.json, WORKDIR/finished.json, WORKDIR/predictions.png.

    Returns:
      The results of `finetune.results.results_file.results` and of `scores_of_tests`. If the config asks for them, also
      "predictions" (names of the files with answers to test sets) and "onnx" (see `compare`).
    """
    job = outcome.job
    found = results_file.results(outcome)
    if why := without_score(job.metric, found["runs"][found["best_run"]]["metrics"]):
        logger.warning("no run has a score: %s", why)
    params = member_params(_whole(outcome.params), found["best_run"])
    model = JaxModel(
        job.classifier,
        params,
        population_mesh(job.config.mesh, 1),
        lengths=_lengths(job),
        batch=job.config.eval.batch,
        matmul_precision=job.config.matmul_precision,
    )
    # Every process takes part in JAX's computations. Only the first process runs `write`.
    logits = {each.name: model(each.encoded) for each in job.evaluations}
    threshold = threshold_of(found)
    with_onnx = job.config.inference == "onnx"
    asked = asked_of(job) if job.config.eval.tests else []
    by_model = [each for each in asked if not with_onnx or each.examples.labelled.any()]
    answers = _answers(job, by_model, model)
    found |= scores_of_tests(answers, threshold)

    def write() -> dict[str, Any]:
        answered = answers
        save_model(job, params, workdir / MODEL, threshold)
        if with_onnx:
            exported = _exported(job, workdir / MODEL)
            found["onnx"] = compare(job, exported, logits, threshold)
            answered = _answers(job, asked, exported)
        if job.config.eval.tests:
            names = [write_answers(workdir / FOLDER, *answer, threshold or 0.0) for answer in answered]
            found["predictions"] = [name for name in names if name]
        before = results_file.read_results(workdir)
        if before is not None and before["steps"] == found["steps"]:
            found["seconds"] = before["seconds"]  # nothing was trained since
        results_file.write_results(found, workdir)
        write_finished(workdir, outcome.step, job.steps)
        drawn = logits[job.evaluations[0].name]
        attempt(PICTURE, _write_picture, job, found, drawn, workdir, remedy=REMEDY)
        attempt(f"{MODEL}/{CARD}", _write_card, found, workdir, remedy=REMEDY)
        attempt(
            "report.json", keep_answers, job, drawn, workdir, threshold or 0.0, remedy=WITHOUT_ANSWERS
        )  # before the report, which shows it
        attempt("report.html", write_report, workdir, remedy=f"python -m finetune.report {workdir} writes it")
        return found

    return processes.from_first(write)


def save_model(job: Job, params: Any, folder: epath.Path, threshold: float | None) -> None:
    """Write the folder of a model of a run. ONNX files of an earlier model are removed.

    Args:
      job: the run.
      params: one member's, as numpy arrays.
      folder: where to write.
      threshold: that of `threshold_of`.
    """
    remove_files(folder, ONNX_FILE, INT8_NAME)
    beside = {FACTS_FILE: _facts(job, threshold).as_json()}
    network, config, tokenizer = job.classifier, job.source_config, job.tokenizer
    if isinstance(network, Embedder):
        length = job.config.max_length
        save_embedder(folder, network, params, config, tokenizer, max_length=length, beside=beside)
    else:
        save_classifier(folder, network, params, config, job.labels, tokenizer, beside=beside)


def _exported(job: Job, folder: epath.Path) -> Logits:
    """The ONNX export of the best model, which is written."""
    lengths, batch = _lengths(job), job.config.eval.batch
    if isinstance(job.classifier, Embedder):
        export_embedder(folder)
        return OnnxEmbedder(folder, lengths=lengths, batch=batch, temperature=job.classifier.temperature)
    export_onnx(folder)
    return OnnxModel(folder, lengths=lengths, batch=batch)


def threshold_of(found: Mapping[str, Any]) -> float | None:
    """The threshold of the best run; None of a kind of task without one, or of a model that has diverged."""
    value = found["runs"][found["best_run"]]["metrics"].get(THRESHOLD, math.nan)
    return value if math.isfinite(value) else None


def _facts(job: Job, threshold: float | None) -> Facts:
    facts = Facts(len(job.data.task.texts), job.config.max_length, threshold or 0.0)
    if not isinstance(job.encoder, QuestionEncoder):
        return facts
    return dataclasses.replace(facts, **vars(job.encoder.answering))


def compare(
    job: Job, model: Logits, logits: Mapping[str, np.ndarray], threshold: float | None = None
) -> dict[str, Any]:
    """The scores of a model on the evaluation sets of a run, and the difference of its logits from the run's own.

    Args:
      job: the run.
      model: the model to evaluate.
      logits: the run's own [n, C] by the names of its evaluation sets.
      threshold: the run's, where its kind of task has one.

    Returns:
      "metrics" by name, and "largest_difference" of any two logits.
    """
    metrics: dict[str, float] = {}
    furthest: list[float] = []
    for evaluated in job.evaluations:
        found = model(evaluated.encoded)
        metrics |= scores_on(evaluated, found, job.data.task, threshold)
        differences = np.abs(found - logits[evaluated.name])
        if job.kind.extracts:  # of their scores; other columns are characters and losses
            differences = differences[:, [SCORE, NO_ANSWER]]
        furthest.append(float(differences.max()))
    return {"metrics": metrics, "largest_difference": float(np.max(furthest))}


def _answers(job: Job, asked: list[Asked], model: Logits) -> list[tuple[Asked, np.ndarray]]:
    return [(each, model(job.encoder(each.examples))) for each in asked]


def scores_of_tests(
    answered: Sequence[tuple[Asked, np.ndarray]], threshold: float | None = None
) -> dict[str, Any]:
    """What answers score on the test sets that have labels.

    Returns:
      "tests": {split: {metric: value}}; "test_examples": {split: {"count", "labelled" (how many of them), "origin"}}.
    """
    scores: dict[str, Any] = {}
    sets: dict[str, Any] = {}
    for asked, logits in answered:
        examples, labelled = asked.examples, asked.examples.labelled
        if examples.labels is not None and labelled.any():
            sentences = examples.sentence[labelled] if isinstance(examples, Sentences) else None
            scores[asked.split] = scores_of(
                asked.task, logits[labelled], examples.labels[labelled], sentences, threshold
            )
            sets[asked.split] = {
                "count": len(examples),
                "labelled": examples.labelled_count,
                "origin": examples.origin,
            }
    return {"tests": scores, "test_examples": sets}


def _lengths(job: Job) -> tuple[int, ...]:
    """The row lengths of the run, and further ones for longer texts of test sets."""
    return row_lengths(job.config.max_length, job.plan.lengths)


def _write_picture(job: Job, found: Mapping[str, Any], logits: np.ndarray, workdir: epath.Path) -> None:
    """Write a picture of the logits [n, C] of the first evaluation set, to WORKDIR and beside the model."""
    labels = job.evaluations[0].encoded.targets
    assert labels is not None
    seed = job.config.members[found["best_run"]].seed
    what = "words" if job.kind.per_token else "pairs" if job.kind.embeds else "examples"
    what = "questions" if job.kind.extracts else what
    title = f"{job.data.task.title}: run of seed {seed}, {len(labels)} {what}"
    if job.kind.name == EMBEDDING:
        content = picture_of_ranks(ranks(vectors_of(logits), labels), title)
    elif job.kind.extracts:
        content = picture_of_answers(texts_of(logits, list(labels)), labels, title)
    else:
        told = job.kind.predictions(logits, threshold_of(found) or 0.0)
        content = picture(told, labels, job.labels, title)
    for folder in (workdir / MODEL, workdir):
        write_bytes(folder / PICTURE, content)


def _write_card(found: Mapping[str, Any], workdir: epath.Path) -> None:
    write_text(workdir / MODEL / CARD, card_of(found, workdir, f"{workdir.name}/{MODEL}"))


def card_of(found: Mapping[str, Any], workdir: epath.Path, name: str) -> str:
    """The model card of a finished run, whose model is to be loaded by `name`: a folder, or an id on the hub."""
    return card_text(found, name, picture=PICTURE if (workdir / MODEL / PICTURE).exists() else "")


def card_text(found: Mapping[str, Any], name: str, *, picture: str = "") -> str:
    """The model card of results.

    Args:
      found: the results.
      name: the folder or the id on the hub that loads the model.
      picture: the file beside the card that shows the evaluation; '' for none.
    """
    write = embedder_card.card if found.get("kind") in (EMBEDDING, SIMILARITY) else classifier_card.card
    return write(found, name, picture=picture)


def push(found: Mapping[str, Any], workdir: epath.Path, repo_id: str, *, private: bool) -> str:
    """Upload the model of a finished run to the hub, with a card that says how to load it from there.

    Args:
      found: the results.
      workdir: the run's folder.
      repo_id: USER/NAME.
      private: of a new repository only.

    Returns:
      The repository's address.

    Raises:
      UserError: whatever goes wrong.
    """
    metric = found["metric"]
    value = found["runs"][found["best_run"]]["metrics"][metric]
    message = f"{found['title']}: {metric} {results_file.score(metric, value)}"
    replaced: dict[str, bytes] = {}
    # The folder's own card says how to load the folder.
    attempt(CARD, lambda: replaced.update({CARD: card_of(found, workdir, repo_id).encode()}))
    return hub_upload.push(workdir / MODEL, repo_id, private=private, message=message, replaced=replaced)


def _whole(params: Any) -> Any:
    """Params that every process holds whole."""
    return params if processes.count() == 1 else multihost_utils.process_allgather(params, tiled=True)
