"""Models handed over: the folder that transformers loads, and the Hugging Face hub."""

import os

from base.errors import UserError
from base.places import place_of
from finetune.results.final_outputs import push
from finetune.results.results_file import read_results
from pretrain import export as exporting


def export(
    workdir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    step: str = "last",
    overwrite: bool = False,
) -> int:
    """Write the model of a pretraining run as a folder that transformers loads.

    Args:
      workdir: the run's folder.
      out: the folder to make.
      step: which checkpoint: a number, "last", or "best" (lowest held-out loss).
      overwrite: replace an earlier export in `out`.

    Returns:
      The step of the checkpoint.

    Raises:
      UserError: no such run or checkpoint, or `out` holds something already.
    """
    places = (place_of(os.fspath(each), name) for each, name in ((workdir, "workdir"), (out, "out")))
    return exporting.export(*places, step=step, overwrite=overwrite).step


def push_to_hub(workdir: str | os.PathLike[str], repo_id: str, *, private: bool = True) -> str:
    """Upload the best model of a fine-tuning run to the hub. huggingface_hub finds the token.

    Args:
      workdir: the run's folder.
      repo_id: USER/NAME; the repository is made if need be.
      private: of a new repository only.

    Returns:
      The repository's address.

    Raises:
      UserError: the run has not finished, no token, or whatever the hub refuses.
    """
    folder = place_of(os.fspath(workdir), "workdir")
    found = read_results(folder)
    if found is None:
        raise UserError(f"workdir={folder} holds no finished run of fine-tuning; finish it first")
    return push(found, folder, repo_id, private=private)
