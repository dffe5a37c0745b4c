"""Evaluate pretrained models on any text: loss and accuracy at masks that are the same for each model.

A MODEL is the workdir of a pretraining run, a folder in transformers' format, such as an export, or a hub id. Without a
text, the text is the held-out documents of the first run. Other text is named by --text, or by config.data as in
pretraining; all of it is evaluated, unless config.data.eval_fraction or config.data.eval_source is set.

Models of one tokenizer read the same rows and predict the same tokens. Losses of different tokenizers do not compare.
"""

import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.table import Table
from rich.text import Text

from base import formatting, schema, terminal
from base.command_line import read
from base.errors import UserError
from base.plain_arguments import Arguments
from base.schema import Unused, field
from base.set_fields import LINE, RECIPE, Given, say_all
from base.storage import check_damage, write_out
from data.config import DataConfig
from data.config import unused_fields as unused_in_data
from data.held_out_rows import evaluation_rows
from pretrain.config import EvalConfig, MaskingConfig, MeshConfig, PretrainConfig
from pretrain.devices.mesh import make_mesh
from pretrain.named_models import NamedModel, open_models
from pretrain.objective.evaluation import Evaluator
from pretrain.objective.held_out_cache import ARRAYS
from pretrain.objective.masking import MaskingTables
from pretrain.objective.pseudo_likelihood import hidden_tokens, log_probabilities, make_scorer
from pretrain.objective.registry import evaluation_objective
from pretrain.objective.token_frequencies import FREQUENCY_LOSS, verdict
from pretrain.optim.config import WEIGHTS
from pretrain.phases import Phase, saved_phases
from pretrain.runtime import processes, train_command
from tokenizer.load import Loaded

SEQ_LEN, ROWS = 128, 1024
"""Most tokens of a row, and most rows, where no run gives them."""
TRAINING_ONLY = ("data.streams", "data.window", "data.prefetch")


@dataclass(frozen=True)
class TextConfig:
    """The fields of a recipe that say what is evaluated."""

    data: DataConfig = field(DataConfig, "the text")


@dataclass(frozen=True)
class Evaluated:
    """What the models are evaluated on."""

    data: DataConfig
    seq_len: int
    """Tokens S of a row."""
    rows: int
    """Most rows."""
    masking: MaskingConfig = MaskingConfig()
    rate: float = 0.15
    """Share of the tokens that is predicted."""
    run: NamedModel | None = None
    """The run that the text and the masks are of; None where they are of no run."""
    phase: Phase | None = None
    """Of that run."""

    def read(self, tokenizer: Loaded) -> dict[str, np.ndarray]:
        """Its rows, int32 [R, S] each: tokens, segments, positions.

        Raises:
          UserError: there is no text.
        """
        if self._is_own_text(tokenizer):
            assert self.run is not None and self.run.workdir is not None and self.phase is not None
            wanted = {
                "data": schema.as_dict(self.data),
                "tokenizer": tokenizer.fingerprint(),
                "seq_len": self.seq_len,
                "max_rows": self.rows,
            }
            wanted = json.loads(json.dumps(wanted))
            kept = _kept(
                self.run.workdir / f"heldout_{self.phase.number}.npz", lambda key: {**key, **wanted} == key
            )
            if kept is not None:
                return {name: kept[name] for name in ARRAYS}
        return evaluation_rows(
            self.data,
            tokenizer.encode,
            tokenizer.special,
            seq_len=self.seq_len,
            max_rows=self.rows,
            where=self.phase.place("data") if self.phase is not None else "config.data",
        )

    def training_counts(self, tokenizer: Loaded, *, with_ends: bool) -> np.ndarray | None:
        """How often each token occurs in the run's training text, int64 [V]; None if the run has not kept it.

        Args:
          tokenizer: a model's; another than the run's has no counts.
          with_ends: whether the separator that ends each document counts.
        """
        if not self._is_own_text(tokenizer):
            return None
        assert self.run is not None and self.run.workdir is not None and self.phase is not None
        wanted = [tokenizer.fingerprint(), with_ends]
        file = self.run.workdir / f"token_counts_{self.phase.number}.npz"
        kept = _kept(file, lambda key: key[1:] == wanted)
        return None if kept is None else kept["counts"]

    def _is_own_text(self, tokenizer: Loaded) -> bool:
        """Whether the rows are those of the run."""
        return self.run is not None and tokenizer.fingerprint() == self.run.tokenizer.fingerprint()


def _kept(file: epath.Path, fits: Callable[[Any], bool]) -> dict[str, np.ndarray] | None:
    """The arrays in a file of a run, if its key fits; else None. The run may be training, so nothing is written."""
    if not file.exists():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
            return dict(kept) if fits(json.loads(kept["key"].item())) else None
    except Exception as error:  # damage shows itself as errors of many kinds
        check_damage(error, os.fspath(file))
        return None


def evaluate(
    models: Sequence[NamedModel], text: Evaluated, *, batch: int = 32, pseudo_perplexity: int = 0
) -> list[dict[str, Any]]:
    """Score each model on the text.

    Args:
      models: the models.
      text: what they are evaluated on.
      batch: rows of a forward pass; rounded up to a multiple of the devices.
      pseudo_perplexity: number of rows, from the first, whose pseudo-perplexity is computed (Salazar et al. 2020); each
        of their tokens takes a forward pass.

    Returns:
      For each model: name, objective, loss (nats a prediction), accuracy, perplexity, frequency_loss (of the run's
      training text if the rows are the run's, else of the rows; see `pretrain.objective.token_frequencies`), rows,
      tokens, bytes_per_token, and pseudo_perplexity if it was asked for.

    Raises:
      UserError: there is no text, or a model takes fewer tokens than a row has.
    """
    mesh = make_mesh(MeshConfig())
    batch = math.ceil(batch / mesh.size) * mesh.size
    rows: dict[str, dict[str, np.ndarray]] = {}
    results = []
    for each in models:
        if text.seq_len > each.model.config.max_length:
            raise UserError(
                f"--seq_len={text.seq_len}: {each.name} takes {each.model.config.max_length} tokens at most"
            )
        key = each.tokenizer.fingerprint()
        if key not in rows:
            rows[key] = text.read(each.tokenizer)
        with jax.set_mesh(mesh):
            values = _evaluator(each, text, mesh, batch, rows[key])(jax.device_put(each.params))
        found: dict[str, Any] = {"name": each.name, "objective": each.objective}
        found |= {name.removeprefix("eval/"): value for name, value in values.items()}
        found |= _facts(each.tokenizer, rows[key])
        if pseudo_perplexity:
            found["pseudo_perplexity"] = _pseudo_perplexity(each, rows[key], pseudo_perplexity)
        results.append(found)
    return results


def _evaluator(
    model: NamedModel, text: Evaluated, mesh: jax.sharding.Mesh, batch: int, rows: dict[str, np.ndarray]
) -> Evaluator:
    tables = MaskingTables.build(text.masking, model.tokenizer)
    phase = Phase(0, 0, 1, text.seq_len, batch, 1, text.rate, text.data, model.objective)
    objective = evaluation_objective(
        phase, EvalConfig(masking_rate=text.rate), tables, model.tokenizer.special.sep
    )
    counts = text.training_counts(model.tokenizer, with_ends=objective.causal)
    if counts is None:
        arrays = {name: jnp.asarray(array) for name, array in rows.items()}
        predicted = np.asarray(objective.may_be_predicted(arrays))
        counts = np.bincount(rows["tokens"][predicted], minlength=model.tokenizer.vocab_size)
    return Evaluator(model.model, objective, phase, mesh, rows, counts)


def _facts(tokenizer: Loaded, rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rows, tokens that are not special, and the bytes of text for each of them."""
    tokens = [
        row[(part > 0) & ~np.isin(row, tokenizer.special_ids)]
        for row, part in zip(rows["tokens"], rows["segments"])
    ]
    count = sum(map(len, tokens))
    size = sum(len(tokenizer.decode(row).encode()) for row in tokens)
    return {"rows": len(tokens), "tokens": count, "bytes_per_token": size / max(count, 1)}


def _pseudo_perplexity(model: NamedModel, rows: dict[str, np.ndarray], count: int) -> float:
    model.check_fills_blanks()
    first = {name: array[:count] for name, array in rows.items()}
    hidden = hidden_tokens(first, model.tokenizer)
    score = make_scorer(model.model, model.tokenizer.special.mask)
    return math.exp(-log_probabilities(score, model.params, first, hidden).mean())


def table(results: Sequence[dict[str, Any]]) -> Table:
    """The results as a table for rich, a line for each model."""
    shown = Table(box=None, padding=(0, 1), header_style="bold")
    shown.add_column("model", overflow="fold")
    columns = ["loss", "token\nfrequencies", "accuracy", "perplexity"]
    columns += ["pseudo-\nperplexity"] * ("pseudo_perplexity" in results[0])
    for name in (*columns, "tokens"):
        shown.add_column(name, justify="right", no_wrap=True)
    for found in results:
        cells = [
            f"{found['loss']:.4f}",
            f"{found['frequency_loss']:.4f}",
            formatting.percent(found["accuracy"], 2),
            f"{found['perplexity']:.4g}",
        ]
        if "pseudo_perplexity" in found:
            cells.append(f"{found['pseudo_perplexity']:.4g}")
        shown.add_row(Text("/".join(found["name"].split("/")[-2:])), *cells, f"{found['tokens']:,}")
    return shown


def unused_fields(config: TextConfig) -> Iterable[Unused]:
    """The fields of a config without effect in an evaluation."""
    yield Unused(TRAINING_ONLY, "an evaluation reads the documents in their order; leave it out")
    yield from unused_in_data(config.data)


def _evaluated(arguments: Any, config: TextConfig, given: Given, models: Sequence[NamedModel]) -> Evaluated:
    """What the command line asks to evaluate on.

    Raises:
      UserError: it names no text, and no model is a run's.
    """
    room = min(each.model.config.max_length for each in models)
    seq_len, rows, rate = arguments.seq_len, arguments.rows, arguments.masking_rate
    data = config.data
    if given.level("data") < RECIPE:
        return _of_first_run(arguments, models)
    line = [given.level(f"data.{name}") == LINE for name in ("eval_fraction", "eval_source")]
    if not any(line) and (arguments.text or not given.recipe):
        data = dataclasses.replace(data, eval_fraction=1.0, eval_source=None)
    return Evaluated(data, seq_len or min(room, SEQ_LEN), rows or ROWS, rate=rate or 0.15)


def _of_first_run(arguments: Any, models: Sequence[NamedModel]) -> Evaluated:
    run = next((each for each in models if each.run is not None), None)
    if run is None or run.run is None:
        raise UserError(
            "no text to evaluate on: name a file by --text=FILE, or a source by --config.data.source and its fields; "
            "only a run has held-out documents of its own"
        )
    config = schema.restored(PretrainConfig, run.run["config"])
    phases, step = saved_phases(run.run["config"], run.run["step"]), run.run["step"]
    phase = next((each for each in phases if step <= each.stop), phases[-1])
    if arguments.seq_len:
        phase = dataclasses.replace(phase, seq_len=arguments.seq_len)
    return Evaluated(
        data=phase.data,
        seq_len=phase.seq_len,
        rows=arguments.rows or config.eval.steps * phase.whole.global_batch,
        masking=config.masking,
        rate=arguments.masking_rate or config.eval.masking_rate or phase.masking_rate,
        run=run,
        phase=phase,
    )


def _arguments(argv: Sequence[str]) -> tuple[Any, list[str]]:
    """The flags, and the arguments of the config.

    Raises:
      UserError: no model, an unknown flag, or a number that is out of range.
    """
    parser = Arguments(
        prog="python -m pretrain.evaluate",
        usage="python -m pretrain.evaluate MODEL [MODEL ...] [--text=FILE] [--config.data.FIELD=VALUE ...] [flags]",
        description=__doc__,
    )
    parser.add_argument("models", nargs="*", help="workdirs, folders in transformers' format, hub ids")
    parser.add_argument("--text", default="", help="a file of text, or several by commas or a glob")
    parser.add_argument(
        "--step",
        default="last",
        help="checkpoints of a run, by commas: numbers, last or best; each is a model",
    )
    parser.add_argument("--weights", default="raw", choices=WEIGHTS, help="weights of a run: raw, or average")
    parser.add_argument(
        "--seq_len", type=int, default=0, help=f"tokens of a row; 0: the run's, else up to {SEQ_LEN}"
    )
    parser.add_argument("--rows", type=int, default=0, help=f"most rows; 0: the run's, else {ROWS}")
    parser.add_argument("--batch", type=int, default=32, help="rows of a forward pass; changes no result")
    parser.add_argument(
        "--masking_rate", type=float, default=0.0, help="share of tokens predicted; 0: the run's, else 0.15"
    )
    parser.add_argument(
        "--pseudo_perplexity",
        type=int,
        default=0,
        help="rows whose pseudo-perplexity is computed, with a forward pass for each token; 0: none",
    )
    parser.add_argument("--json", default="", help="write the results to this file; - is stdout")
    fields = [word for word in argv[1:] if word.startswith(("--config", "-config"))]
    values = parser.read([argv[0], *(word for word in argv[1:] if word not in fields)])
    if not values.models:
        raise UserError("no model given: name workdirs, folders in transformers' format or hub ids")
    for name, least in (("seq_len", 3), ("rows", 1), ("pseudo_perplexity", 1)):
        if getattr(values, name) and getattr(values, name) < least:
            raise UserError(f"--{name}={getattr(values, name)} should be {least} or more, or 0")
    if values.batch < 1:
        raise UserError(f"--batch={values.batch} should be 1 or more")
    if not 0 <= values.masking_rate < 1:
        raise UserError(
            f"--masking_rate={values.masking_rate:g} should be above 0 and below 1; 0 takes the run's"
        )
    if values.text:
        named = [
            word for word in fields if word.lstrip("-").startswith(("config.data.source", "config.data.path"))
        ]
        if named:
            raise UserError(f"--text={values.text} and {named[0]} name two texts; leave one of them out")
        fields += ["--config.data.source=files", f"--config.data.path={values.text}"]
    return values, fields


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments, fields = _arguments(argv)
    line = read(
        TextConfig, [argv[0], *fields], lambda _: None, partial=True, unused=unused_fields, recipe=False
    )
    say_all(line.given)
    train_command.log_to_stderr()
    models = open_models(arguments.models, steps=arguments.step.split(","), weights=arguments.weights)
    text = _evaluated(arguments, line.config, line.given, models)
    results = evaluate(models, text, batch=arguments.batch, pseudo_perplexity=arguments.pseudo_perplexity)
    content = (
        json.dumps({"seq_len": text.seq_len, "masking_rate": text.rate, "models": results}, indent=2) + "\n"
    )
    if arguments.json == "-":
        terminal.pass_on(content)
        return 0
    if arguments.json:
        write_out(arguments.json, content, "--json")
    terminal.console().print(table(results))
    if len(results) == 1 and (
        said := verdict({"eval/loss": results[0]["loss"], FREQUENCY_LOSS: results[0]["frequency_loss"]})
    ):
        terminal.say(said)
    if len({each.tokenizer.fingerprint() for each in models}) > 1:
        terminal.say(
            "the models have different tokenizers, so that their losses and perplexities do not compare"
        )
    return 0


if __name__ == "__main__":
    processes.run(main, alone=True)
