"""The rules of a preparation, one document at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import UserError
from base.schema import build
from data.prepare.config import PrepareConfig
from data.prepare.rules import document_rules
from data.prepare.words import compared_words, hashes, sequences

PROSE = (
    "The old horse stood by the river and looked at the far bank. Nobody had crossed here since spring, when the "
    "bridge fell. A child came down the path with bread for it, sat in the grass, and told it about the town. "
    "They waited until the light was gone, then both of them walked home along the wall of the garden."
)


def verdict(step: str, text: str, **values: Any) -> tuple[str, str]:
    config = build(PrepareConfig, {"steps": (step,), **values}, "config.prepare")
    ((_, rule),) = document_rules(config)
    return rule(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301te\u0301\r\nb\rc\u2028d", "\u00e9t\u00e9\nb\nc\nd"),
        ("a\x00b\x07c\ufeffd\u200be\u202ef", "abcdef"),
        ("tab\tand\u00a0space \u200cjoin\u200der", "tab\tand\u00a0space \u200cjoin\u200der"),
        ("\ufb01n", "\ufb01n"),
        ("bl\u00c3\u00a5b\u00c3\u00a6r", "bl\u00c3\u00a5b\u00c3\u00a6r"),
    ],
)
def test_characters_are_repaired(text: str, expected: str) -> None:
    assert verdict("unicode", text) == (expected, "")


def test_other_forms_and_mojibake_are_a_choice() -> None:
    assert verdict("unicode", "\ufb01n", unicode={"form": "NFKC"}) == ("fin", "")
    assert verdict("unicode", "e\u0301", unicode={"form": ""}) == ("e\u0301", "")
    repaired = verdict("unicode", "bl\u00c3\u00a5b\u00c3\u00a6r", unicode={"mojibake": True})
    assert repaired == ("bl\u00e5b\u00e6r", "")
    assert verdict("unicode", "\x00\u200b \n") == ("", "empty")


@pytest.mark.parametrize(
    ("step", "text", "reason"),
    [
        ("length", PROSE, ""),
        ("length", "word " * 49, "min_words"),
        ("length", "word " * 100_001, "max_words"),
        ("length", "a b " * 40, "min_mean_word"),
        ("length", "extraordinarily " * 60, "max_mean_word"),
        ("repetition", PROSE, ""),
        ("repetition", "one line\n" * 9 + PROSE, "duplicate_lines"),
        ("repetition", f"{PROSE}\nother\nlines\nhere\n{PROSE}", "duplicate_line_chars"),
        ("repetition", "click here " * 9 + PROSE, "top_2gram"),
        ("repetition", f"{PROSE} {PROSE}", "duplicate_5gram"),
        ("quality", PROSE, ""),
        ("quality", f"{PROSE} {'# ' * 40}", "max_symbols"),
        ("quality", "\n".join(f"- item of the {n} list" for n in "abcdefghij"), "max_bullet_lines"),
        ("quality", f"{PROSE} and\nso it went on and on until night...\nthe end", "max_ellipsis_lines"),
        ("quality", f"{PROSE} {'12 34 ' * 20}", "min_alphabetic_words"),
    ],
)
def test_documents_are_dropped_for_a_reason(step: str, text: str, reason: str) -> None:
    assert verdict(step, text) == ("" if reason else text, reason)


def test_rules_follow_their_values() -> None:
    assert verdict("length", "word " * 49, length={"min_words": 49})[1] == ""
    off = {
        "duplicate_lines": 1.0,
        "duplicate_line_chars": 1.0,
        "duplicate_5gram": 1.0,
        "duplicate_10gram": 1.0,
    }
    tops = {f"top_{n}gram": 1.0 for n in (2, 3, 4)}
    assert verdict("repetition", f"{PROSE}\n{PROSE}\n{PROSE}", repetition={**off, **tops})[1] == ""
    assert verdict("quality", PROSE, quality={"stop_words": ("the", "and", "of")})[1] == ""
    assert verdict("quality", PROSE, quality={"stop_words": ("og", "the")})[1] == "min_stop_words"


def test_personal_data_is_masked_and_other_numbers_are_not() -> None:
    text = "Write to ola.nordmann+x@mail.example.no or call +47 22 33 44 55 (10.0.200.255), 1998, 3.14, v1.2.3.4567."
    masked, reason = verdict("masks", text)
    assert reason == ""
    assert masked == "Write to email@example.com or call 0000000 (192.0.2.1), 1998, 3.14, v1.2.3.4567."
    for kept in (
        "2026-11-30",
        "2026-11-30 12:45",
        "2026-11-30 2026-12-01",
        "2019 2020 2021",
        "1 000 000 kroner",
    ):
        assert verdict("masks", kept) == (kept, "")
    for number in ("1 234 567", "600 123 456", "2026-11-3012", "2019 2020 21", "1 000 000 12", "20261130"):
        assert verdict("masks", f"({number})") == ("(0000000)", "")
    assert verdict("masks", "a@b.no 12345678", masks=("number",)) == ("a@b.no 0000000", "")
    assert verdict("masks", "x" * 10**5 + "@" + "y." * 10**4)[1] == "", "no text takes long"


def test_documents_with_text_of_an_evaluation_are_dropped(tmp_path: Path) -> None:
    words = PROSE.split()
    (tmp_path / "task.tsv").write_text(f"1\t{' '.join(words[20:40])}\t0\nshort line\n")
    (tmp_path / "task.jsonl").write_text(
        json.dumps({"a": {"b": ["\u00e9n to tre fire fem seks sju \u00e5tte"]}}) + "\n\n"
    )
    files = f"{tmp_path}/*.tsv,{tmp_path}/*.jsonl"
    overlap = {"files": files, "ngram": 8}
    assert verdict("overlap", PROSE.upper(), overlap=overlap) == ("", "overlap")
    assert (
        verdict("overlap", "Ja: \u00c9n, to, tre, fire; fem seks sju \u00e5tte!", overlap=overlap)[1]
        == "overlap"
    )
    left = " ".join([*words[:27], "new", *words[28:35], "new", *words[36:]])
    assert verdict("overlap", left, overlap=overlap)[1] == ""
    with pytest.raises(
        UserError, match=r"has no text of 30 words or more; lower config.prepare.overlap.ngram"
    ):
        verdict("overlap", PROSE, overlap={"files": files, "ngram": 30})
    (tmp_path / "task.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"config.prepare.overlap.files: .*task.jsonl line 1: "):
        verdict("overlap", PROSE, overlap=overlap)


def test_languages_are_told_apart() -> None:
    values = {"language": {"keep": ("en",), "among": ("en", "nb", "de")}}
    assert verdict("language", PROSE, **values) == (PROSE, "")
    norwegian = (
        "Han gikk ned til elva og satt der til det ble m\u00f8rkt, og ingen visste hvor han hadde v\u00e6rt."
    )
    assert verdict("language", norwegian, **values) == ("", "language nb")
    unsure = {"language": {**values["language"], "min_probability": 0.9999999}}
    assert verdict("language", "in", **unsure)[1] in ("min_probability", "language de", "language nb")
    for wrong, message in [
        ({"keep": ("xx",)}, r"config.prepare.language.keep: 'xx' is no ISO 639-1 code"),
        ({"keep": ("en",), "among": ("de", "nb")}, r"among lacks en of config.prepare.language.keep"),
        ({"keep": ("en", "nn"), "among": ("en", "nb")}, r"among lacks nn of config.prepare.language.keep"),
        ({"keep": ("en",), "among": ("en",)}, r"has one language; name others"),
    ]:
        with pytest.raises(UserError, match=message):
            verdict("language", PROSE, language=wrong)


def test_sequences_of_words_are_equal_if_their_words_are() -> None:
    one = sequences(hashes(compared_words("a b c d, e f")), 3)
    other = sequences(hashes(compared_words("x; B C D e y")), 3)
    assert len(one) == 4 and len(other) == 4
    assert np.flatnonzero(np.isin(one, other)).tolist() == [1, 2]
    assert len(sequences(hashes(["a"]), 3)) == 0
    assert len(set(sequences(hashes(["a", "b", "a", "b", "a"]), 2).tolist())) == 2
