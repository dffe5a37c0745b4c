"""Score sentences by their pseudo-log-likelihood, or compare the sentences of minimal pairs.

Each token of a sentence, an unknown one too, is hidden in turn, and the model says how probable it is (Salazar et al.
2020). Each line of the output has the sum, the mean over the tokens, the number of tokens, and the sentence, separated
by tabs. Logarithms are natural. An empty line of a file has a line too, without a sum.

With --pairs, each line of a file has a sentence that is right and one that is wrong. The model is right if it gives the
right sentence the higher sum (Warstadt et al. 2020, "BLiMP"). Equal sums are not right; they are counted as ties.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from base import formatting, terminal
from base.errors import UserError
from base.json_files import parsed
from base.plain_arguments import Arguments
from base.storage import write_out
from data.sources.compressed_lines import read_lines, stdin_lines
from data.sources.documents import FlawError, decode
from pretrain.models.positions import positions_of_texts
from pretrain.named_models import NamedModel, open_models
from pretrain.objective.pseudo_likelihood import BATCH, hidden_tokens, log_probabilities, make_scorer
from pretrain.optim.config import WEIGHTS
from pretrain.runtime import processes, train_command

METRICS = ("pll", "pll_word_l2r")
LENGTH_STEP = 32
"""Rows are padded to a multiple of this length, so that similar sentences share a program."""
GOOD, BAD = ("good", "sentence_good"), ("bad", "sentence_bad")
"""Fields of a pair in a jsonl file; the latter are BLiMP's."""


@dataclass(frozen=True)
class Scored:
    """The pseudo-log-likelihood of a sentence."""

    tokens: tuple[int, ...]
    """Its ids, without those that are added around it."""
    scores: tuple[float, ...]
    """The log-probability (nats) of each."""

    @property
    def total(self) -> float:
        """Their sum."""
        return math.fsum(self.scores)

    @property
    def mean(self) -> float:
        """Their mean; NaN of a sentence without tokens."""
        return self.total / len(self.scores) if self.scores else math.nan


@dataclass(frozen=True)
class Accuracy:
    """How many pairs a model has right."""

    right: int
    pairs: int
    ties: int = 0
    """Pairs whose sentences have the same sum; they are not right."""

    @property
    def share(self) -> float:
        """The accuracy."""
        return self.right / self.pairs

    @property
    def error(self) -> float:
        """Its standard error, of a binomial share."""
        return math.sqrt(self.share * (1 - self.share) / self.pairs)


def score(
    model: NamedModel, sentences: Sequence[str], *, metric: str = "pll", batch: int = BATCH
) -> list[Scored]:
    """The pseudo-log-likelihood of sentences.

    Args:
      model: a masked language model.
      sentences: the sentences.
      metric: "pll" hides one token at a time. "pll_word_l2r" hides the tokens that follow in the same word too (Kauf &
        Ivanova 2023), so that words of several tokens are not overrated.
      batch: rows of a forward pass.

    Raises:
      UserError: the model fills no blanks, or a sentence is too long.
    """
    model.check_fills_blanks()
    special, room = model.tokenizer.special, model.model.config.max_length
    rows = [[special.cls, *ids.tolist(), special.sep] for ids in model.tokenizer.encode(sentences)]
    for number, row in enumerate(rows, 1):
        if len(row) > room:
            raise UserError(
                f"sentence {number} ({sentences[number - 1][:40]!r}...) has {len(row) - 2} tokens; {model.name} takes "
                f"{room - 2} of them at most"
            )
    widths = [min(room, -(-len(row) // LENGTH_STEP) * LENGTH_STEP) for row in rows]
    program, found = make_scorer(model.model, special.mask), [Scored((), ())] * len(rows)
    for width in sorted(set(widths)):
        members = [index for index, each in enumerate(widths) if each == width]
        arrays = _arrays([rows[index] for index in members], width, model)
        words = (
            _words([sentences[index] for index in members], width, model) if metric == METRICS[1] else None
        )
        hidden = hidden_tokens(_inner(arrays["segments"]), model.tokenizer, words)
        values = log_probabilities(program, model.params, arrays, hidden, batch=batch)
        ends = np.searchsorted(hidden.rows, np.arange(1, len(members)))  # the rows are in order
        tokens = np.split(arrays["tokens"][hidden.rows, hidden.places], ends)
        for index, ids, scores in zip(members, tokens, np.split(values, ends), strict=True):
            found[index] = Scored(tuple(ids.tolist()), tuple(scores.tolist()))
    return found


def _inner(segments: np.ndarray) -> dict[str, np.ndarray]:
    """Rows [R, S] as `hidden_tokens` takes them, whose ordinary tokens are all but the first and the last of each row.

    An unknown token is one of them. Without it, a sentence of unknown words would have a higher sum.
    """
    inner = np.zeros_like(segments)
    inner[:, 1:-1] = segments[:, 2:]
    return {"tokens": np.full_like(segments, -1), "segments": inner}


def _arrays(rows: Sequence[Sequence[int]], width: int, model: NamedModel) -> dict[str, np.ndarray]:
    """Tokens, segments and positions of rows with one sentence each, int32 [R, S]."""
    tokens = np.full((len(rows), width), model.tokenizer.special.pad, np.int32)
    segments = np.zeros_like(tokens)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        segments[index, : len(row)] = 1
    return {
        "tokens": tokens,
        "segments": segments,
        "positions": np.asarray(jax.device_get(positions_of_texts(jnp.asarray(tokens), model.model.config))),
    }


def _words(sentences: Sequence[str], width: int, model: NamedModel) -> np.ndarray:
    """The word that each token of the rows belongs to, int32 [R, S]; -2 for special tokens and padding."""
    words = np.full((len(sentences), width), -2, np.int32)
    for row, numbers in zip(words, model.tokenizer.words(sentences), strict=True):
        row[1 : 1 + len(numbers)] = numbers
    return words


def accuracy(
    model: NamedModel, pairs: Sequence[tuple[str, str]], *, metric: str = "pll", batch: int = BATCH
) -> Accuracy:
    """The share of pairs whose first sentence has the higher sum; equal sums are not right, and counted.

    Args:
      model: a masked language model.
      pairs: sentences that are right, and their counterparts that are wrong.
      metric: as in `score`.
      batch: rows of a forward pass.
    """
    found = score(model, [sentence for pair in pairs for sentence in pair], metric=metric, batch=batch)
    sums = [(good.total, bad.total) for good, bad in zip(found[::2], found[1::2], strict=True)]
    ties = sum(good == bad for good, bad in sums)
    return Accuracy(sum(good > bad for good, bad in sums), len(pairs), ties)


def read_pairs(path: str) -> list[tuple[str, str]]:
    """The minimal pairs of a file: right and wrong sentences.

    Args:
      path: a .jsonl file with the fields good and bad (or sentence_good and sentence_bad); else two sentences a line,
        separated by a tab, the right one first.

    Raises:
      UserError: the file cannot be read, has no pair, or a line is no pair.
    """
    is_json = path.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl")
    pairs = []
    for number, line in enumerate(_lines(path, "--pairs"), 1):
        if not line.strip():
            continue
        pair = _json_pair(line) if is_json else [part.strip() for part in line.split("\t")]
        if pair is None or len(pair) != 2 or not all(pair):
            wanted = (
                f"fields {GOOD[0]} and {BAD[0]}, both texts"
                if is_json
                else "two sentences with a tab between"
            )
            raise UserError(f"--pairs={path}: line {number} should have {wanted}")
        pairs.append((pair[0], pair[1]))
    if not pairs:
        raise UserError(f"--pairs={path} has no pair")
    return pairs


def _json_pair(line: str) -> list[str] | None:
    try:
        values = parsed(line)
    except ValueError:
        return None
    found = (
        [next((values[name] for name in names if name in values), None) for names in (GOOD, BAD)]
        if isinstance(values, dict)
        else []
    )
    return [text for text in found if isinstance(text, str)]


def _lines(path: str, flag: str) -> list[str]:
    """The lines of a file, or of stdin ('-').

    Raises:
      UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return [decode(line) for line in (stdin_lines() if path == "-" else read_lines(path))]
    except FlawError as flaw:
        raise UserError(f"{flag}={path}: {flaw}") from None


def _arguments(argv: Sequence[str]) -> Any:
    parser = Arguments(
        prog="python -m pretrain.score",
        usage="python -m pretrain.score --model=MODEL --file=FILE|--pairs=FILE,... [flags] [SENTENCE ...]",
        description=__doc__,
    )
    parser.add_argument(
        "--model", default="", help="a workdir of pretraining, a folder in transformers' format, or a hub id"
    )
    parser.add_argument("--step", default="last", help="which checkpoint of a run: a number, last or best")
    parser.add_argument("--weights", default="raw", choices=WEIGHTS, help="weights of a run: raw, or average")
    parser.add_argument("sentences", nargs="*", help="sentences to score")
    parser.add_argument("--file", default="", help="a file of sentences, one a line; - is stdin")
    parser.add_argument(
        "--pairs", default="", help="files of minimal pairs, by commas: .jsonl, or tabs between"
    )
    parser.add_argument(
        "--metric", default="pll", choices=METRICS, help="pll_word_l2r hides the rest of a token's word too"
    )
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of a forward pass; changes no result")
    parser.add_argument(
        "--json", default="", help="write the scores to this file, of each token too; - is stdout"
    )
    values = parser.read(argv)
    if not values.model:
        raise UserError(
            "no --model given: a workdir of pretraining, a folder in transformers' format, or a hub id"
        )
    if sum(map(bool, (values.sentences, values.file, values.pairs))) != 1:
        raise UserError("give sentences, or --file=FILE, or --pairs=FILE: one of the three")
    if values.batch < 1:
        raise UserError(f"--batch={values.batch} should be 1 or more")
    return values


def _score_sentences(model: NamedModel, values: Any) -> list[dict[str, Any]]:
    lines = values.sentences or _lines(values.file, "--file")
    sentences = [line.strip() for line in lines]
    if not any(sentences):
        raise UserError(
            f"--file={values.file} holds no sentence" if values.file else "the sentences are empty"
        )
    found = score(model, sentences, metric=values.metric, batch=values.batch)
    if values.json != "-":
        rows = [
            (f"{each.total:.4f}\t{each.mean:.4f}" if each.scores else "\t")
            + f"\t{len(each.scores)}\t{formatting.one_line(sentence)}\n"
            for each, sentence in zip(found, sentences)
        ]
        terminal.pass_on("".join(rows))
    return [
        {
            "sentence": sentence,
            "sum": each.total if each.scores else None,
            "mean": each.mean if each.scores else None,
            "tokens": [model.tokenizer.decode([token]) for token in each.tokens],
            "scores": list(each.scores),
        }
        for each, sentence in zip(found, sentences)
    ]


def _score_pairs(model: NamedModel, values: Any) -> list[dict[str, Any]]:
    files = {path: read_pairs(path) for path in values.pairs.split(",") if path}
    if not files:
        raise UserError(f"--pairs={values.pairs} names no file")
    found = {
        path: accuracy(model, pairs, metric=values.metric, batch=values.batch)
        for path, pairs in files.items()
    }
    if len(found) > 1:
        parts = list(found.values())
        found["all"] = Accuracy(
            *(sum(getattr(e, name) for e in parts) for name in ("right", "pairs", "ties"))
        )
    if values.json != "-":
        shown = Table(box=None, padding=(0, 1), header_style="bold")
        shown.add_column("pairs", overflow="fold")
        for name in ("accuracy", "standard error", "ties", "number"):
            shown.add_column(name, justify="right")
        for path, each in found.items():
            shown.add_row(
                Text(path),
                formatting.percent(each.share, 2),
                formatting.percent(each.error, 2),
                f"{each.ties:,}",
                f"{each.pairs:,}",
            )
        terminal.console().print(shown)
    return [
        {
            "pairs": path,
            "accuracy": each.share,
            "standard_error": each.error,
            "right": each.right,
            "ties": each.ties,
            "number": each.pairs,
        }
        for path, each in found.items()
    ]


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    values = _arguments(argv)
    train_command.log_to_stderr()
    (model,) = open_models([values.model], steps=[values.step], weights=values.weights)
    found = (_score_pairs if values.pairs else _score_sentences)(model, values)
    content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found)
    if values.json == "-":
        terminal.pass_on(content)
    elif values.json:
        write_out(values.json, content, "--json")
    return 0


if __name__ == "__main__":
    processes.run(main, alone=True)
