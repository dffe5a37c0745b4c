"""Predict masked words with a model: `python -m pretrain.fill_mask --workdir=DIR "Paris is the <mask> of France."`

Without a text, it uses sentences from the run's held-out documents and masks one word in each.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int
from rich.table import Table
from rich.text import Text

from base import formatting, terminal
from base.errors import UserError
from base.places import place_of
from base.plain_arguments import Arguments
from base.schema import restored
from data.held_out_rows import evaluation_rows
from data.sources.compressed_lines import read_lines, stdin_lines
from data.sources.documents import FlawError, decode
from pretrain.config import PretrainConfig
from pretrain.models import Model, Params, build, huggingface
from pretrain.models.positions import positions_of_texts
from pretrain.objective.held_out_cache import held_out_rows
from pretrain.objective.names import TRAITS
from pretrain.phases import Phase, objective_at, resolve_phases, saved_phases
from pretrain.runtime import processes
from pretrain.runtime.workdir import MODEL_FILE, check_workdir
from pretrain.trained_network import trained_network
from tokenizer.load import Loaded, load
from tokenizer.run_tokenizer import tokenizer_folder

MASK = "<mask>"
"""The mark of a masked word in a text; the tokenizer's mask token may have another name."""
LENGTH_STEP = (
    32  # rows are padded to a multiple of this length, so that similar texts share a compiled program
)

SENTENCE_END = re.compile(r"(?<=[.!?…。])\s+|\n+")
WORD = re.compile(r"[^\W\d_]{3,}")
SENTENCE_CHARS = range(40, 121)
SENTENCE_WORDS = 6
LETTER_SHARE = 0.75
"""Least share of letters among a sentence's characters other than white space. Tables and code have a lower share."""
FEW_ROWS = 64
"""Rows of held-out text for the examples if the run makes no evaluations."""
COMMON = 3
"""Fewest occurrences in the texts of a word that is masked."""


@dataclass(frozen=True)
class Cloze:
    """A text with one or more masked words."""

    text: str
    """The text, with MASK or the tokenizer's own mask token in place of each masked word."""
    answer: str = ""
    """The true word of the only mask; '' if it is not known."""


@dataclass(frozen=True)
class Candidate:
    """A token that the model predicts for a mask, and its probability."""

    word: str
    probability: float


def fill_mask(
    model: Model, params: Params, tokenizer: Loaded, texts: Sequence[str], *, top: int = 5
) -> list[list[list[Candidate]]]:
    """Predict the most probable tokens for each mask of each text.

    Texts are tokenized as in transformers' fill-mask pipeline. A special token that is written in a text counts as that
    token.

    Args:
      model: the model.
      params: its params.
      tokenizer: its tokenizer.
      texts: the texts; each has one or more masks.
      top: number of candidates for each mask.

    Returns:
      For each text, for each mask, the `top` candidates; the most probable is first.

    Raises:
      UserError: a text has no mask, or it has more tokens than the model takes.
    """
    rows = _encode(tokenizer, texts, model.config.max_length)
    mask = tokenizer.special.mask
    blanks = [np.flatnonzero(row == mask) for row in rows]
    width = min(model.config.max_length, -(-max(map(len, rows)) // LENGTH_STEP) * LENGTH_STEP)
    tokens = np.full((len(rows), width), tokenizer.special.pad, np.int32)
    segments = np.zeros_like(tokens)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        segments[index, : len(row)] = 1
    chosen = np.zeros((len(rows), max(map(len, blanks))), np.int32)
    for index, places in enumerate(blanks):
        chosen[index, : len(places)] = places
    top = min(top, tokenizer.vocab_size)

    @jax.jit
    def predict(
        params: Params, tokens: Int[Array, "B S"], segments: Int[Array, "B S"], chosen: Int[Array, "B K"]
    ) -> tuple[Float[Array, "B K T"], Int[Array, "B K T"]]:
        positions = positions_of_texts(tokens, model.config)
        hidden = model.encode(params, tokens, segments, positions)
        logits = model.predict(params, jnp.take_along_axis(hidden, chosen[:, :, None], axis=1))
        # If the model's vocabulary is padded beyond the tokenizer's, its last rows have no token.
        return jax.lax.top_k(jax.nn.softmax(logits, axis=-1)[:, :, : tokenizer.vocab_size], top)

    probabilities, ids = jax.device_get(predict(params, tokens, segments, chosen))
    return [
        [
            [
                Candidate(tokenizer.decode([token]).strip(), float(p))
                for token, p in zip(ids[i, k], probabilities[i, k])
            ]
            for k in range(len(places))
        ]
        for i, places in enumerate(blanks)
    ]


def _encode(tokenizer: Loaded, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
    """The token ids of each text, int32 [length], with cls and sep. MASK becomes the mask token."""
    around = tokenizer.tokenizer.num_special_tokens_to_add(False) or 2
    rows = []
    for text in texts:
        row = _row(tokenizer, text)
        if tokenizer.special.mask not in row:
            raise UserError(f"there is no {MASK} in {text!r}; write one for the word to predict")
        if len(row) > max_length:
            raise UserError(
                f"{text[:40]!r}... has {len(row) - around} tokens; the model takes {max_length - around} of them at "
                "most"
            )
        rows.append(np.array(row, np.int32))
    return rows


def _row(tokenizer: Loaded, text: str) -> list[int]:
    """The token ids of a text, with cls and sep. MASK becomes the mask token."""
    special, parser = tokenizer.special, tokenizer.tokenizer
    ids: list[int] = parser.encode(text.replace(MASK, parser.id_to_token(special.mask) or MASK)).ids
    return ids if parser.num_special_tokens_to_add(False) else [special.cls, *ids, special.sep]


def held_out_texts(workdir: epath.Path, config: PretrainConfig, phase: Phase, tokenizer: Loaded) -> list[str]:
    """Pieces of the held-out documents on which a phase was evaluated.

    Args:
      workdir: the run's folder.
      config: the run's config.
      phase: the phase.
      tokenizer: the run's tokenizer.

    Raises:
      UserError: the run holds out no documents.
    """
    if config.eval.every:
        rows = held_out_rows(workdir, phase, tokenizer, config.eval.steps * phase.whole.global_batch)
    else:
        rows = evaluation_rows(
            phase.data, tokenizer.encode, tokenizer.special, seq_len=512, max_rows=FEW_ROWS
        )
    return [text for row in rows["tokens"] for text in texts_between(row, tokenizer)]


def texts_between(row: Int[np.ndarray, "S"], tokenizer: Loaded) -> list[str]:
    """The texts of a row, which special tokens separate; the special tokens are left out."""
    is_special = np.isin(row, tokenizer.special_ids)
    parts = np.split(np.arange(len(row)), np.flatnonzero(is_special))
    texts = [tokenizer.decode(row[part[~is_special[part]]]) for part in parts]
    return [text for text in texts if text.strip()]


def choose_examples(
    texts: Sequence[str], tokenizer: Loaded, *, max_length: int, count: int = 5, seed: int = 0
) -> list[Cloze]:
    """Choose sentences from the texts, and mask one word in each. The same seed gives the same sentences.

    A masked word is a single token and occurs at least COMMON times, so that a young model has a chance. The first and
    the last sentence of a text may be cut. So they are left out if the text has more than two sentences.

    Args:
      texts: the texts.
      tokenizer: the model's tokenizer.
      max_length: tokens that the model takes at most; longer sentences are left out.
      count: largest number of sentences.
      seed: seed of the choice.
    """
    frequency = Counter(word for text in texts for word in WORD.findall(text))
    common = sorted(word for word, times in frequency.items() if times >= COMMON)
    lengths = map(len, tokenizer.encode([f" {word}" for word in common]))
    askable = {word for word, length in zip(common, lengths) if length == 1}
    draw = random.Random(seed)
    sentences = sorted({sentence for text in texts for sentence in _sentences(text)})
    draw.shuffle(sentences)
    examples: list[Cloze] = []
    asked: set[str] = set()
    for sentence in sentences:
        words = [
            w for w in WORD.finditer(sentence) if w.group() in askable - asked and _stands_alone(sentence, w)
        ]
        if len(examples) == count:
            break
        if words:
            word = draw.choice(words)
            text = sentence[: word.start()] + MASK + sentence[word.end() :]
            if len(_row(tokenizer, text)) <= max_length:
                asked.add(word.group())
                examples.append(Cloze(text, word.group()))
    return examples


def _sentences(text: str) -> list[str]:
    parts = [part.strip() for part in SENTENCE_END.split(text)]
    return [part for part in (parts[1:-1] if len(parts) > 2 else parts) if _is_prose(part)]


def _is_prose(sentence: str) -> bool:
    letters = sum(character.isalpha() for character in sentence)
    return (
        len(sentence) in SENTENCE_CHARS
        and len(sentence.split()) >= SENTENCE_WORDS
        and letters >= LETTER_SHARE * len("".join(sentence.split()))
        and MASK not in sentence
    )


def _stands_alone(sentence: str, word: re.Match[str]) -> bool:
    """Whether a word follows a space and is not part of a longer expression (a-b, a.b)."""
    before, after = sentence[: word.start()], sentence[word.end() :]
    return before.endswith(" ") and (not after or after[0] in " ,;:!?" or after == ".")


def prediction_table(examples: Sequence[Cloze], filled: Sequence[Sequence[Sequence[Candidate]]]) -> Table:
    """A table for rich with the masked texts, the true words if they are known, and the candidates."""
    known = any(example.answer for example in examples)
    table = Table(box=None, padding=(0, 1, 1, 1), header_style="bold")
    table.add_column("text", overflow="fold", ratio=1)
    if known:
        table.add_column("true word", style="bold", no_wrap=True)
    table.add_column("predicted", no_wrap=True)
    for example, blanks in zip(examples, filled):
        text = Text("____", style="bold").join(
            Text(part) for part in formatting.one_line(example.text).split(MASK)
        )
        candidates = Text("\n\n").join(
            Text("\n").join(_line(candidate, example.answer) for candidate in blank) for blank in blanks
        )
        table.add_row(text, *([Text(formatting.one_line(example.answer))] if known else []), candidates)
    return table


def _line(candidate: Candidate, answer: str) -> Text:
    line = f"{formatting.percent(candidate.probability):>6}  {formatting.one_line(candidate.word)}"
    return Text(f"{line} ✓", style="green") if candidate.word == answer else Text(line)


def _texts_of(path: str) -> list[str]:
    """The lines of a file or of stdin ('-') that are not empty.

    Raises:
      UserError: the file cannot be read, is not UTF-8, or has no text.
    """
    try:
        lines = [decode(line).strip() for line in (stdin_lines() if path == "-" else read_lines(path))]
    except FlawError as flaw:
        raise UserError(f"--file={path}: {flaw}") from None
    if texts := [line for line in lines if line]:
        return texts
    raise UserError(f"--file={path} holds no text")


def _check_fills_blanks(saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint, by its `run` item, whose head has learned something else.

    Raises:
      UserError: it learned causal language modelling last.
    """
    if not TRAITS[objective_at(saved_phases(saved["config"], saved["step"]), saved["step"])].hides_tokens:
        raise UserError(
            f"step {saved['step']} of this run has learned to predict the next token (config.objective.name=clm), not "
            "to fill blanks; take a --step of a phase that learns mlm, or train one"
        )


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = Arguments(prog="python -m pretrain.fill_mask", description=__doc__)
    parser.add_argument("--workdir", help="the folder of a pretraining run")
    parser.add_argument("--model", help="instead: a folder in transformers' format, or a hub id")
    parser.add_argument("--step", default="last", help="which checkpoint of the run: a number, last or best")
    parser.add_argument("--top", type=int, default=5, help="number of candidates for each mask")
    parser.add_argument(
        "texts", nargs="*", help=f"texts with {MASK}; none shows held-out sentences of the run"
    )
    parser.add_argument("--file", help="a file with such texts, one a line; - is stdin")
    arguments = parser.read(argv)
    if arguments.top < 1:
        raise UserError(f"--top={arguments.top} should be 1 or more")
    if arguments.file:
        if arguments.texts:
            raise UserError(
                f"the text {arguments.texts[0]!r} and --file={arguments.file} are given; leave one of them out"
            )
        arguments.texts = _texts_of(arguments.file)
    if bool(arguments.workdir) == bool(arguments.model):
        raise UserError("give either --workdir=DIR (a run) or --model=DIR (a model in transformers' format)")
    if arguments.model and (epath.Path(arguments.model).expanduser() / MODEL_FILE).exists():
        raise UserError(f"--model={arguments.model} is the folder of a run; name it by --workdir")
    if arguments.model and not arguments.texts:
        raise UserError(f"give a text with {MASK}: --model has no held-out documents to choose one from")
    examples = [Cloze(text) for text in arguments.texts]
    if arguments.model:
        tokenizer = load(arguments.model)
        encoder, params = huggingface.load_pretrained(arguments.model)
    else:
        workdir = place_of(arguments.workdir, "--workdir")
        check_workdir(workdir)
        network = trained_network(workdir, arguments.step)
        encoder, params, saved = network.encoder, network.params, network.run
        _check_fills_blanks(saved)
        tokenizer = load(str(tokenizer_folder(workdir)))
        if not examples:
            config = restored(PretrainConfig, saved["config"])
            phases = resolve_phases(config, epoch_steps=max(saved["step"], 1))
            phase = next((each for each in phases if saved["step"] <= each.stop), phases[-1])
            texts = held_out_texts(workdir, config, phase, tokenizer)
            examples = choose_examples(texts, tokenizer, max_length=encoder.max_length)
        if not examples:
            raise UserError(
                f"no held-out sentence of this run could serve as an example; give a text with {MASK}"
            )
    filled = fill_mask(
        build(encoder), params, tokenizer, [example.text for example in examples], top=arguments.top
    )
    terminal.console().print(prediction_table(examples, filled))
    return 0


if __name__ == "__main__":
    processes.run(main, alone=True)
