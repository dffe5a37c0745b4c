"""`python -m pretrain.export --workdir=DIR --out=HF_DIR`: a checkpoint as a folder that transformers loads."""

import argparse
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from base import formatting
from base.errors import UserError
from base.plain_arguments import Arguments
from base.storage import check_writable, is_remote
from pretrain.config import CardConfig
from pretrain.models import build
from pretrain.models.huggingface import parse_config, save_pretrained
from pretrain.models.vocabulary import with_rows
from pretrain.phases import objective_at, objective_since, saved_phases
from pretrain.publish import hub_upload
from pretrain.publish.model_card import CardFacts, model_card
from pretrain.publish.public_names import check_card
from pretrain.reports.end_summary import LOSS_CURVE, draw_loss_curve
from pretrain.reports.metric_writer import FILE_NAME, read_metrics
from pretrain.runtime import processes
from pretrain.runtime.checkpoint import restore_params
from pretrain.runtime.optional_outputs import attempt
from pretrain.runtime.workdir import MODEL_FILE, check_workdir, read_card
from tokenizer.load import load as load_tokenizer

logger = logging.getLogger(__name__)

EXPORTED = re.compile(
    r"config\.json|model.*\.safetensors(\.index\.json)?|tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|"
    r"merges\.txt|README\.md|" + re.escape(LOSS_CURVE)
)
"""Names of the files that an export consists of."""
NEXT_TOKEN = (
    "its head was trained to predict the next token (config.objective.name=clm) and does not fill blanks: load it with "
    "AutoModelForCausalLM and is_decoder=True, or go on with mlm"
)
"""What is said of a model that learned causal language modelling last."""
REMEDY = "export again to have it"


def export(
    workdir: epath.Path,
    out: epath.Path,
    *,
    step: str = "last",
    overwrite: bool = False,
    name: str = "",
    card: CardConfig | None = None,
) -> int:
    """Write config.json, model.safetensors, the tokenizer's files, README.md and the loss curve of a run to `out`.

    config.json, without which nothing loads, is written last. On a file system the folder is made beside its place
    and moved there whole; a bucket cannot move a folder at once, so there it is emptied and filled in place.

    Args:
      workdir: the run's folder.
      out: the folder to make.
      step: which checkpoint: a number, "last", or "best" (lowest held-out loss).
      overwrite: replace an earlier export in `out`; a folder that holds anything else is refused all the same.
      name: what the model is to be loaded by, its id on the hub; '' is the name of `out`.
      card: what the model card says besides what is known of the run; its fields that are empty are the run's own.

    Returns:
      The step of the checkpoint.

    Raises:
      UserError: no such run or checkpoint, or `out` holds something already.
    """
    if is_remote(out):
        check_writable(out, "--out")
    _check_out(out, overwrite)
    check_workdir(workdir)
    params, saved = restore_params(workdir, step)
    config = {**saved["config"], "card": read_card(workdir, saved["config"])}
    phases = saved_phases(config, saved["step"])
    since = objective_since(phases, saved["step"])
    encoder = parse_config(json.loads((workdir / MODEL_FILE).read_text()), str(workdir / MODEL_FILE))
    params = with_rows(encoder, params, encoder.vocab_size)
    folder = out if is_remote(out) else out.parent / f".{out.name}.unfinished-{os.getpid()}"
    try:
        if folder.exists():
            folder.rmtree()
        folder.mkdir(parents=True)
        tokenizer = load_tokenizer(str(workdir / "tokenizer"))
        facts = CardFacts(
            name=name or out.name,
            encoder=encoder,
            parameters=build(encoder).count(),
            config=config,
            step=saved["step"],
            metrics=[
                line for line in read_metrics(workdir / FILE_NAME) if since < line["step"] <= saved["step"]
            ],
            mask_token=tokenizer.decode([tokenizer.special.mask]),
            has_loss_curve=draw_loss_curve(workdir, folder, remedy=REMEDY),
            past=saved.get("past", ()),
            local=saved.get("local"),
            fingerprints=saved.get("fingerprints", {}),
            documents=_documents(saved.get("data", {})),
            card=_card(config["card"], card or CardConfig()),
        )
        attempt("README.md", lambda: (folder / "README.md").write_text(model_card(facts)), remedy=REMEDY)
        save_pretrained(folder, encoder, params, workdir / "tokenizer")
        if folder != out:
            _put_in_place(folder, out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error}") from error
    finally:
        if folder != out:
            shutil.rmtree(folder, ignore_errors=True)
    if objective_at(phases, facts.step) == "clm":
        logger.warning("%s: %s", out, NEXT_TOKEN)
    return facts.step


def _documents(data: Mapping[str, Mapping[str, Any]]) -> int:
    """Documents that a run has read, by the positions of its streams."""
    return sum(state["counts"]["documents"] for streams in data.values() for state in streams.values())


def _card(own: Mapping[str, Any], given: CardConfig) -> CardConfig:
    """What the card of a run says, `given` before what its config has."""
    return CardConfig(
        language=given.language or own.get("language", ""), license=given.license or own.get("license", "")
    )


def _check_out(out: epath.Path, overwrite: bool) -> None:
    """Refuse a place whose contents the export would destroy."""
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
    """Move a finished folder to its place, over what is there."""
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
    workdir, out = (epath.Path(getattr(values, name)).expanduser() for name in ("workdir", "out"))
    step = export(
        workdir, out, step=values.step, overwrite=values.overwrite, name=values.push_to_hub, card=card
    )
    written = sum(file.stat().length for file in out.iterdir())
    use = f"AutoModelForMaskedLM.from_pretrained({str(out)!r})"
    if is_remote(out):
        use = f"transformers reads it from a local copy: gcloud storage cp -r {shlex.quote(str(out))} ."
    print(f"{out} holds step {step} ({formatting.size(written)}): {use}")
    if values.push_to_hub:
        url = hub_upload.push(out, values.push_to_hub, private=not values.public, message=f"Step {step}")
        print(f"on the hub: {url}")
    return 0


if __name__ == "__main__":
    processes.run(main, alone=True)
