"""`python -m pretrain.export --workdir=DIR --out=HF_DIR`: a checkpoint as a folder that transformers loads."""

import argparse
import dataclasses
import logging
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from base import formatting, terminal
from base.errors import UserError
from base.places import place_of
from base.plain_arguments import Arguments
from base.storage import check_writable, is_remote
from pretrain.config import CardConfig
from pretrain.models import build
from pretrain.models.huggingface import save_pretrained
from pretrain.optim.config import WEIGHTS
from pretrain.phases import objective_since, saved_phases
from pretrain.publish import hub_upload
from pretrain.publish.loading import Loading, caution, loading
from pretrain.publish.model_card import CardFacts, model_card
from pretrain.publish.public_names import check_card
from pretrain.reports.end_summary import LOSS_CURVE, draw_loss_curve
from pretrain.reports.metric_writer import FILE_NAME, read_metrics
from pretrain.runtime import processes
from pretrain.runtime.optional_outputs import attempt
from pretrain.runtime.workdir import check_workdir, read_card
from pretrain.trained_network import TrainedNetwork, trained_network
from tokenizer.load import load as load_tokenizer

logger = logging.getLogger(__name__)

EXPORTED = re.compile(
    r"config\.json|model.*\.safetensors(\.index\.json)?|tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|"
    r"merges\.txt|README\.md|" + re.escape(LOSS_CURVE)
)
"""Names of the files that an export consists of."""
REMEDY = "export again to have it"


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    step: int
    """The step of the checkpoint."""
    loading: Loading
    """How transformers loads it."""


def export(
    workdir: epath.Path,
    out: epath.Path,
    *,
    step: str = "last",
    overwrite: bool = False,
    name: str = "",
    card: CardConfig | None = None,
    weights: str = "raw",
    mean_of: int = 1,
) -> Exported:
    """Write config.json, model.safetensors, the tokenizer's files, README.md and the loss curve of a run to `out`.

    config.json is written last, because nothing loads a folder without it. On a file system, the folder is made beside
    `out` and then renamed to `out`. A bucket cannot rename a folder. So there, `out` is emptied and filled in place.

    Args:
      workdir: the run's folder.
      out: the folder to make.
      step: which checkpoint: a number, "last", or "best" (lowest held-out loss).
      overwrite: replace an earlier export in `out`; a folder that holds anything else is refused all the same.
      name: the name that loads the model, its id on the hub; '' takes the name of `out`.
      card: the settings of the model card; an empty field takes the run's value.
      weights: "raw", as they were trained, or "average", their moving average.
      mean_of: the mean over so many checkpoints, saved one after another, of which that of `step` is the last.

    Raises:
      UserError: no such run or checkpoint, or `out` holds something already.
    """
    if is_remote(out):
        check_writable(out, "--out")
    _check_out(out, overwrite)
    check_workdir(workdir)
    network = trained_network(workdir, step, weights, mean_of)
    run = {
        **network.run,
        "config": {**network.run["config"], "card": read_card(workdir, network.run["config"])},
    }
    folder = out if is_remote(out) else out.parent / f".{out.name}.unfinished-{os.getpid()}"
    try:
        if folder.exists():
            folder.rmtree()
        folder.mkdir(parents=True)
        facts = _facts(workdir, network, run, name or out.name, card or CardConfig())
        has_loss_curve = draw_loss_curve(workdir, folder, remedy=REMEDY)
        facts = dataclasses.replace(facts, has_loss_curve=has_loss_curve, weights=weights, mean_of=mean_of)
        attempt("README.md", lambda: (folder / "README.md").write_text(model_card(facts)), remedy=REMEDY)
        save_pretrained(folder, network.encoder, network.params, workdir / "tokenizer")
        if folder != out:
            _put_in_place(folder, out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error}") from error
    finally:
        if folder != out:
            shutil.rmtree(folder, ignore_errors=True)
    family = network.encoder.family
    if warning := caution(facts.learned, family):
        logger.warning("%s: %s", out, warning)
    return Exported(run["step"], loading(facts.learned, family))


def _facts(
    workdir: epath.Path, network: TrainedNetwork, run: Mapping[str, Any], name: str, given: CardConfig
) -> CardFacts:
    """The facts for the model card of a run, except the loss curve.

    Args:
      workdir: the run's folder.
      network: what is exported.
      run: the checkpoint's `run` item, with the newest `config.card` of the workdir.
      name: the name that loads the model.
      given: the user's settings of the card.
    """
    tokenizer = load_tokenizer(str(workdir / "tokenizer"))
    since = objective_since(saved_phases(run["config"], run["step"]), run["step"])
    return CardFacts(
        name=name,
        encoder=network.encoder,
        parameters=build(network.encoder).count(),
        config=run["config"],
        step=run["step"],
        metrics=[line for line in read_metrics(workdir / FILE_NAME) if since < line["step"] <= run["step"]],
        mask_token=tokenizer.decode([tokenizer.special.mask]),
        has_loss_curve=False,
        past=run.get("past", ()),
        local=run.get("local"),
        fingerprints=run.get("fingerprints", {}),
        documents=_documents(run.get("data", {})),
        card=_card(run["config"]["card"], given),
    )


def _documents(data: Mapping[str, Mapping[str, Any]]) -> int:
    """Documents that a run has read, by the positions of its streams."""
    return sum(state["counts"]["documents"] for streams in data.values() for state in streams.values())


def _card(own: Mapping[str, Any], given: CardConfig) -> CardConfig:
    """The settings of a run's model card; `given` takes precedence over the run's config."""
    return CardConfig(
        language=given.language or own.get("language", ""), license=given.license or own.get("license", "")
    )


def _check_out(out: epath.Path, overwrite: bool) -> None:
    """Refuse a place whose contents the export would destroy."""
    if not is_remote(out) and Path(out).is_symlink():
        raise UserError(f"--out={out} is a symbolic link, which an export would replace; name a folder")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out={out} is a file; name a folder")
    held = sorted(path.name for path in out.iterdir())
    foreign = [name for name in held if not EXPORTED.fullmatch(name)]
    if foreign:
        raise UserError(
            f"--out={out} holds files that no export wrote ({', '.join(foreign[:3])}); name a new folder"
        )
    if held and not overwrite:
        raise UserError(
            f"--out={out} holds an earlier export; name a new folder, or pass --overwrite to replace it"
        )


def _put_in_place(folder: epath.Path, out: epath.Path) -> None:
    """Rename a finished folder to `out`, and remove the folder that was there."""
    replaced = out.parent / f".{out.name}.replaced-{os.getpid()}"
    if out.exists():
        out.rename(replaced)
    folder.rename(out)
    if replaced.exists():
        replaced.rmtree()


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
      UserError: no workdir or folder, an unknown flag, or --public without --push_to_hub.
    """
    parser = Arguments(
        prog="python -m pretrain.export", usage="python -m pretrain.export --workdir=DIR --out=HF_DIR [flags]"
    )
    parser.add_argument("--workdir", default="", help="the run's folder, local or gs://")
    parser.add_argument("--out", default="", help="the folder to write, local or gs://")
    parser.add_argument("--step", default="last", help="which checkpoint: a step, 'last' or 'best'")
    parser.add_argument(
        "--weights",
        default="raw",
        choices=WEIGHTS,
        help="which weights: raw, as they were trained, or average, their moving average (config.average.decay)",
    )
    parser.add_argument(
        "--mean_of",
        type=int,
        default=1,
        help="the mean of the weights of so many checkpoints, saved one after another, of which --step is the last",
    )
    parser.add_switch("--overwrite", "replace an earlier export in --out")
    parser.add_argument(
        "--language", default="", help="language of the text, by its code, for the model card"
    )
    parser.add_argument(
        "--license", default="", help="licence of the model, as the hub names it, for the model card"
    )
    parser.add_argument(
        "--push_to_hub", default="", help="upload the folder to this model repository, USER/NAME"
    )
    parser.add_switch("--public", "make the repository public if it is new, not private")
    values = parser.read(argv)
    for name in ("workdir", "out"):
        if not getattr(values, name):
            raise UserError(f"no --{name} given; --workdir is the run's folder, --out the folder to write")
    hub_upload.check_flags(values.push_to_hub, public=values.public)
    return values


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    values = _arguments(argv)
    if values.push_to_hub:
        hub_upload.check(values.push_to_hub)
    card = CardConfig(values.language, values.license)
    check_card(card, "--")
    workdir, out = (place_of(getattr(values, name), f"--{name}") for name in ("workdir", "out"))
    exported = export(
        workdir,
        out,
        step=values.step,
        overwrite=values.overwrite,
        name=values.push_to_hub,
        card=card,
        weights=values.weights,
        mean_of=values.mean_of,
    )
    written = sum(file.stat().length for file in out.iterdir())
    use = exported.loading.call(repr(str(out)))
    if is_remote(out):
        use = f"transformers reads it from a local copy: gcloud storage cp -r {shlex.quote(str(out))} ."
    terminal.say(f"{out} holds step {exported.step} ({formatting.size(written)}): {use}")
    if values.push_to_hub:
        url = hub_upload.push(
            out, values.push_to_hub, private=not values.public, message=f"Step {exported.step}"
        )
        terminal.say(f"on the hub: {url}")
    return 0


if __name__ == "__main__":
    processes.run(main, alone=True)
