"""`python -m pretrain.checkpoint list|verify|prune|branch WORKDIR`: the checkpoints of a run, of either stage."""

import argparse
from collections.abc import Sequence

from etils import epath
from rich.table import Table
from rich.text import Text

from base import formatting, terminal
from base.errors import UserError
from base.lock import held
from base.places import place_of
from base.plain_arguments import Arguments
from base.storage import check_readable, is_remote, objects_below
from pretrain.branch import branch
from pretrain.runtime import manifest, processes
from pretrain.runtime.checkpointer import Checkpointer, first_line

ACTIONS = ("list", "verify", "prune", "branch")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
      UserError: no such action, no workdir, or an unknown flag.
    """
    parser = Arguments(
        prog="python -m pretrain.checkpoint",
        usage="python -m pretrain.checkpoint list|verify|prune|branch WORKDIR [--keep=N] [--step=N --out=NEW]",
        description=__doc__,
    )
    parser.add_argument(
        "action",
        help="list: steps and sizes; verify: every file too; prune: delete older ones; branch: copy one to a workdir",
    )
    parser.add_argument("workdir", help="the run's folder, local or gs://")
    parser.add_argument(
        "--keep", type=int, help="prune: newest checkpoints to keep, beside the best (default 1)"
    )
    parser.add_argument("--step", type=int, help="branch: the checkpoint to copy (default: the newest)")
    parser.add_argument("--out", help="branch: the new workdir")
    values = parser.read(argv)
    if values.action not in ACTIONS:
        raise UserError(f"{values.action!r} should be one of {', '.join(ACTIONS)}")
    if values.action == "branch" and not values.out:
        raise UserError("no --out given; it is the new workdir of the branch")
    for name in ("step", "out"):
        if values.action != "branch" and getattr(values, name) is not None:
            raise UserError(f"--{name} has no effect: {values.action} copies nothing; leave it out")
    if values.keep is None:
        values.keep = 1
    elif values.action != "prune":
        raise UserError(f"--keep has no effect: {values.action} deletes nothing; leave it out")
    if values.keep < 1:
        raise UserError(f"--keep={values.keep} should be 1 or more")
    return values


def _size(checkpoint: epath.Path) -> int:
    """Bytes of all files of a checkpoint."""
    if is_remote(checkpoint):
        return sum(size for size, _ in objects_below(checkpoint).values())
    return sum(path.stat().length for path in _files(checkpoint))


def _files(folder: epath.Path) -> list[epath.Path]:
    inside = list(folder.iterdir())
    return [path for each in inside for path in (_files(each) if each.is_dir() else [each])]


def _state_of(checkpointer: Checkpointer, folder: epath.Path, step: int, *, verify: bool) -> tuple[str, str]:
    """A word for how a checkpoint is, and what is in it or what is wrong with it."""
    try:
        run = checkpointer.run(step)
        if verify:
            checkpointer.check(step)
    except Exception as error:  # damage shows itself as errors of many kinds
        return "damaged", first_line(error)
    sound = "sound" if verify else "there"
    if not manifest.exists(folder):
        sound = "unchecked"
    documents = sum(
        state["counts"]["documents"] for streams in run.get("data", {}).values() for state in streams.values()
    )
    inside = (
        f"{documents:,} documents read"
        if documents
        else f"{len(run.get('tracking', {}).get('history', []))} evaluations"
    )
    return sound, inside


def _best(checkpointer: Checkpointer) -> int | None:
    """The step of the best evaluation, as the newest checkpoint has it that can be read; None where there is none."""
    for step in reversed(checkpointer.steps):
        try:
            best = checkpointer.run(step).get("best")
        except Exception:
            continue
        return best["step"] if best else None
    return None


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 1 where a checkpoint is damaged."""
    values = _arguments(argv)
    workdir = place_of(values.workdir, "--workdir")
    check_readable(workdir, "WORKDIR")
    if not (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} has no folder checkpoints; name the --workdir of a run")
    checkpointer = Checkpointer(workdir, create=False)
    try:
        if not checkpointer.steps:
            raise UserError(f"{workdir} has no checkpoint yet")
        if values.action == "branch":
            return _branch(workdir, values.out, values.step)
        if values.action == "prune":
            with held(workdir):  # a run that trains there counts on its checkpoints
                return _prune(checkpointer, workdir, values.keep)
        return _show(checkpointer, workdir, verify=values.action == "verify")
    finally:
        checkpointer.close()


def _branch(workdir: epath.Path, out: str, step: int | None) -> int:
    """Copy a checkpoint to a new workdir, and say how a run goes on there."""
    folder = place_of(out, "--out")
    copied = branch(workdir, folder, step)
    terminal.say(
        f"{folder} holds step {copied}: the run's command with --workdir={folder} goes on there; with --accept_changes "
        "its --config may have another length or schedule, and phases with other data"
    )
    return 0


def _show(checkpointer: Checkpointer, workdir: epath.Path, *, verify: bool) -> int:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("contents", overflow="fold")
    damaged, best = 0, _best(checkpointer)
    for step in checkpointer.steps:
        folder = workdir / "checkpoints" / str(step)
        state, inside = _state_of(checkpointer, folder, step, verify=verify)
        damaged += state == "damaged"
        table.add_row(
            str(step), formatting.size(_size(folder)), state, Text(inside + " (best)" * (step == best))
        )
    for folder in sorted((workdir / "checkpoints").glob("*.unreadable*")):
        table.add_row(
            folder.name.partition(".")[0], formatting.size(_size(folder)), "set aside", Text(folder.name)
        )
    terminal.console().print(table)
    return 1 if damaged else 0


def _prune(checkpointer: Checkpointer, workdir: epath.Path, keep: int) -> int:
    """Delete all but the newest checkpoints and the best; nothing, where one to be kept is damaged."""
    newest, best = checkpointer.steps[-keep:], _best(checkpointer)
    kept = [step for step in checkpointer.steps if step in newest or step == best]
    for step in kept:
        state, why = _state_of(checkpointer, workdir / "checkpoints" / str(step), step, verify=True)
        if state == "damaged":
            raise UserError(f"checkpoint {step}, which would be kept, is damaged ({why}); nothing is deleted")
    dropped = [step for step in checkpointer.steps if step not in kept]
    for step in dropped:
        checkpointer.delete(step)
    said = f"deleted {', '.join(map(str, dropped))}" if dropped else "nothing to delete"
    terminal.say(f"{said}; kept {', '.join(map(str, kept))}")
    return 0


if __name__ == "__main__":
    processes.run(main, alone=True)
