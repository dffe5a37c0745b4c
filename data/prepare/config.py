"""The fields of `config.prepare`: the steps of a preparation, and their parameters.

Defaults of the rules are those of Gopher (Rae et al. 2021, "Scaling Language Models", appendix A1.1), and those of near
duplicates are FineWeb's (Penedo et al. 2024), unless a field says otherwise.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from base.errors import UserError
from base.schema import Unused, field

STEPS = ("unicode", "language", "length", "repetition", "quality", "overlap", "masks", "exact", "near")
"""The steps, in the order in which a document passes them."""
DEFAULT_STEPS = ("unicode", "length", "repetition", "quality", "exact", "near")
MASKS = ("email", "ip", "number")


@dataclass(frozen=True)
class UnicodeConfig:
    """Repair of characters. It changes documents, and drops none but those that have no character left."""

    form: str = field("NFC", "Unicode normal form; empty leaves the text as it is", ("", "NFC", "NFKC"))
    mojibake: bool = field(False, "repair text that was decoded wrongly, such as 'Ã¥' for 'å' (needs ftfy)")


@dataclass(frozen=True)
class LanguageConfig:
    """The language of a document, by lingua (a local model)."""

    keep: tuple[str, ...] = field((), "ISO 639-1 codes of the languages to keep, such as nb, nn")
    among: tuple[str, ...] = field(
        (),
        "codes of the languages to choose from; empty takes all 75, which is slower and needs 1 GB of memory",
    )
    min_probability: float = field(0.5, "drop documents whose language is less sure than this")
    chars: int = field(1000, "characters at the middle of a document to look at; 0 takes all")


@dataclass(frozen=True)
class LengthConfig:
    """Number and length of words."""

    min_words: int = field(50, "drop documents of fewer words; for texts of one sentence set 5")
    max_words: int = field(100_000, "drop documents of more words")
    min_mean_word: float = field(3.0, "drop documents whose mean word has fewer characters")
    max_mean_word: float = field(10.0, "drop documents whose mean word has more characters")


@dataclass(frozen=True)
class RepetitionConfig:
    """Largest shares of repeated text; 1.0 turns a rule off."""

    duplicate_lines: float = field(0.3, "largest share of lines that repeat an earlier line")
    duplicate_line_chars: float = field(0.2, "largest share of characters in such lines")
    top_2gram: float = field(0.2, "largest share of characters in the most frequent pair of words")
    top_3gram: float = field(0.18, "the same for three words")
    top_4gram: float = field(0.16, "the same for four words")
    duplicate_5gram: float = field(0.15, "largest share of words in repeated sequences of five words")
    duplicate_10gram: float = field(0.1, "largest share of words in repeated sequences of ten words")


@dataclass(frozen=True)
class QualityConfig:
    """Signs of text that is not prose; 1.0 (0.0 for minima) turns a rule off."""

    max_symbols: float = field(0.1, "largest number of '#' and of '...' for each word")
    max_bullet_lines: float = field(0.9, "largest share of lines that begin with a bullet")
    max_ellipsis_lines: float = field(0.3, "largest share of lines that end with an ellipsis")
    min_alphabetic_words: float = field(0.8, "smallest share of words with a letter")
    stop_words: tuple[str, ...] = field(
        (), "frequent words of the language, such as og, i, er; empty turns the rule off"
    )
    min_stop_words: int = field(2, "smallest number of different stop words in a document")


@dataclass(frozen=True)
class OverlapConfig:
    """Removal of documents that share text with an evaluation set (GPT-3's 13-grams, Brown et al. 2020)."""

    files: str = field(
        "", "evaluation texts: paths or globs, comma-separated; .jsonl, or any text such as GLUE's .tsv"
    )
    ngram: int = field(
        13, "words of a sequence; a document with one of the evaluation's sequences is dropped"
    )


@dataclass(frozen=True)
class NearConfig:
    """Near-duplicates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., chapter 3)."""

    ngram: int = field(5, "words of a sequence; similarity is that of the sets of sequences")
    bands: int = field(
        14,
        "bands of hashes; two documents are duplicates if one band is equal: at a similarity of 0.68 in half the cases",
    )
    rows: int = field(8, "hashes of a band; more rows find only more similar documents")


@dataclass(frozen=True)
class PrepareConfig:
    """Steps of a preparation, and its shards."""

    steps: tuple[str, ...] = field(
        DEFAULT_STEPS,
        "steps to take: unicode, language, length, repetition, quality, overlap, masks, exact, near; in this order",
    )
    unicode: UnicodeConfig = field(UnicodeConfig, "repair of characters")
    language: LanguageConfig = field(LanguageConfig, "language of documents")
    length: LengthConfig = field(LengthConfig, "number and length of words")
    repetition: RepetitionConfig = field(RepetitionConfig, "repeated text in a document")
    quality: QualityConfig = field(QualityConfig, "signs of text that is not prose")
    overlap: OverlapConfig = field(OverlapConfig, "overlap with evaluation sets")
    masks: tuple[str, ...] = field(
        MASKS,
        "personal data to replace by a mask: email, ip, number (of seven digits or more, such as a phone's)",
    )
    near: NearConfig = field(NearConfig, "near-duplicates")
    parts: int = field(
        1,
        "tasks for each file of the source; each reads the whole file and takes its part: for few large files",
    )
    shards: int = field(
        0,
        "number of shards; 0 takes one for every shard_tokens, and at least eight for each of several hosts",
    )
    shard_tokens: int = field(1 << 27, "tokens of a shard, if shards is 0; 2^27 are about 200 MB")
    hosts: int = field(1, "number of hosts that will read the shards, if shards is 0")


def check_prepare(config: PrepareConfig) -> None:
    """Refuse values that cannot work.

    Raises:
      UserError: an unknown step or mask, a step without what it needs, or a value out of its range.
    """
    for known, given, name in ((STEPS, config.steps, "steps"), (MASKS, config.masks, "masks")):
        for each in given:
            if each not in known:
                near = difflib.get_close_matches(each, known, 1)
                meant = f" (did you mean {near[0]!r}?)" if near else ""
                raise UserError(
                    f"config.prepare.{name}: {each!r} is unknown{meant}; known: {', '.join(known)}"
                )
            if given.count(each) > 1:
                raise UserError(f"config.prepare.{name} has {each!r} {given.count(each)} times; list it once")
    if "language" in config.steps and not config.language.keep:
        raise UserError(
            "config.prepare.steps has 'language', but config.prepare.language.keep is empty; list the codes to keep, "
            "such as ('nb', 'nn')"
        )
    if "overlap" in config.steps and not config.overlap.files:
        raise UserError(
            "config.prepare.steps has 'overlap', but config.prepare.overlap.files is empty; name the evaluation's files"
        )
    if "masks" in config.steps and not config.masks:
        raise UserError(
            "config.prepare.steps has 'masks', but config.prepare.masks is empty; list what to mask"
        )
    positive = {
        "overlap.ngram": config.overlap.ngram,
        "parts": config.parts,
        "near.ngram": config.near.ngram,
        "near.bands": config.near.bands,
        "near.rows": config.near.rows,
        "shard_tokens": config.shard_tokens,
        "hosts": config.hosts,
    }
    for name, value in positive.items():
        if value < 1:
            raise UserError(f"config.prepare.{name}={value} should be 1 or more")
    if config.length.min_words < 0:
        raise UserError(f"config.prepare.length.min_words={config.length.min_words} should be 0 or more")
    if config.shards < 0:
        raise UserError(f"config.prepare.shards={config.shards} should be 1 or more, or 0 to choose by size")


def unused_fields(config: PrepareConfig) -> list[Unused]:
    """The fields of steps that are not taken, and those of the number of shards if it is given."""
    groups: Sequence[str] = [step for step in STEPS if step != "exact"]
    unused = [
        Unused((f"prepare.{step}",), f"config.prepare.steps lacks {step!r}; add it there", ("prepare.steps",))
        for step in groups
        if step not in config.steps
    ]
    if config.shards:
        because = f"config.prepare.shards={config.shards} gives the number of shards; unset one of the two"
        unused.append(Unused(("prepare.shard_tokens", "prepare.hosts"), because, ("prepare.shards",)))
    return unused
