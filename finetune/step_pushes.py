"""`--push_every` of fine-tuning: the model that a run would end with at a checkpoint, as a branch of a hub repository.

The thread is that of pretraining (`pretrain.step_pushes`); here is what it writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from etils import epath

from finetune.job import Job
from finetune.population.early_stopping import Tracking
from finetune.population.state import PopulationState, member_params
from finetune.results.final_outputs import CARD, card_text, save_model, scores_of_tests, threshold_of
from finetune.results.results_file import results
from finetune.train import Outcome
from pretrain.optim.finite import first_bad
from pretrain.runtime.optional_outputs import attempt
from pretrain.runtime.saved_params import restore_params
from pretrain.step_pushes import UnfitError


@dataclass(frozen=True)
class Models:
    """Writes the models of a run's checkpoints, as `pretrain.step_pushes.Write`."""

    job_of: Callable[[], Job]
    """Gives the parts of the run."""
    workdir: epath.Path

    def __call__(self, step: str, folder: epath.Path, repo_id: str) -> str:
        """Write the best model so far, or the last one where config.eval.restore_best is false, and its card.

        Only params are read, as numpy arrays: the devices have no part in it.

        Args:
          step: the checkpoint.
          folder: where to write.
          repo_id: the repository, by which the card loads the model.

        Returns:
          The message of the commit.

        Raises:
          UserError: no such checkpoint, no evaluation before it, or weights that are not finite.
        """
        job = self.job_of()
        weights = "best" if job.config.eval.restore_best else "raw"
        params, run = restore_params(self.workdir, step, weights)
        tracking = Tracking.recalled(run["tracking"], job.data.task)
        if not tracking.history:
            raise UnfitError(f"no evaluation before step {step}; config.eval.every should be {step} or less")
        state = cast(PopulationState, None)  # results need none
        outcome = Outcome(job, state, int(step), "", tracking, run["seconds"])
        found = results(outcome) | scores_of_tests([])
        params = member_params(params, found["best_run"])
        if place := first_bad(params):
            raise UnfitError(f"step {step} has weights that are not finite ({place})")
        save_model(job, params, folder, threshold_of(found))
        attempt(CARD, lambda: (folder / CARD).write_text(card_text(found, repo_id)))
        return f"Step {step}"
