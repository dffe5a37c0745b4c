"""What a finished run leaves in its workdir: results.json, a picture, and the best model as transformers reads it."""

from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from finetune import model_card, results
from finetune.evaluation import Predictor, predictions
from finetune.huggingface import save_classifier
from finetune.job import MODEL
from finetune.population import member_params
from finetune.report import write_picture
from finetune.train import Outcome


def finish(outcome: Outcome, workdir: epath.Path) -> dict[str, Any]:
    """Write WORKDIR/results.json, WORKDIR/predictions.png and WORKDIR/model; returns the results."""
    job = outcome.job
    found = results.results(outcome)
    best = found["best_run"]
    evaluated = job.evaluations[0]
    with jax.set_mesh(job.mesh), jax.default_matmul_precision(job.config.matmul_precision):
        predictor = Predictor(job.classifier, job.mesh, job.plan.lengths, job.config.eval.batch)
        logits = predictor(outcome.params, evaluated.encoded)[best]
    params = member_params(_whole(outcome.params), best)
    if jax.process_index() == 0:
        guesses = predictions(job.data.task, logits)
        labels = evaluated.encoded.labels
        assert labels is not None
        title = f"{job.data.task.title}: run of seed {job.config.members[best].seed}, {len(labels)} examples"
        write_picture(guesses, labels, job.labels, title, workdir / "predictions.png")
        save_classifier(
            workdir / MODEL,
            job.classifier,
            params,
            job.source_config,
            job.labels,
            job.tokenizer,
            beside={
                "README.md": model_card.card(found).encode(),
                "predictions.png": (workdir / "predictions.png").read_bytes(),
            },
        )
        results.write_results(found, workdir)
    return found


def _whole(params: Any) -> Any:
    """Params that every process holds whole."""
    return params if jax.process_count() == 1 else multihost_utils.process_allgather(params, tiled=True)
