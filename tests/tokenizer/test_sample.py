"""The text of a tokenizer: a sample of the whole corpus in bounded memory, and counts that cannot overflow."""

import io
import itertools
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from rich.console import Console
from tokenizers import pre_tokenizers

from base.errors import UserError
from data.config import DataConfig
from tests.memory_corpus import MemorySource
from tests.tokenizer.test_tokenizer_training import DOCUMENTS
from tokenizer import pair_counts, training_progress
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.pair_counts import PairCounts
from tokenizer.report import Measured, main, measure, with_vocabulary
from tokenizer.run_tokenizer import ensure_tokenizer
from tokenizer.sample import PER_DOCUMENT, Sample, size_of
from tokenizer.shard_beginnings import documents_of_beginnings
from tokenizer.train import train_tokenizer
from tokenizer.training_progress import TrainingProgress

TEXTS = [f"text {number} \u00e5 \ud800" for number in range(2000)]


def test_a_sample_is_drawn_from_the_whole_corpus_in_its_order() -> None:
    sample = Sample(TEXTS, documents_at_most=200)
    taken = list(sample)
    assert len(taken) == len(set(taken)) == 200 and sample.left_out == 1800
    numbers = [int(text.split()[1]) for text in taken]
    assert numbers == sorted(numbers)
    tenths = [sum(number // 200 == tenth for number in numbers) for tenth in range(10)]
    assert min(tenths) >= 8 and max(tenths) <= 35, "each tenth of the corpus has about twenty"
    assert set(Sample(TEXTS, documents_at_most=100)) < set(taken)


def test_copies_of_a_text_have_their_share_of_the_sample() -> None:
    texts = [f"text {number}" if number % 10 else "all rights reserved" for number in range(2000)]
    for limits in ({"documents_at_most": 200}, {"bytes_at_most": 200 * (8 + PER_DOCUMENT)}):
        taken = list(Sample(texts, **limits))
        assert 150 < len(taken) <= 200 and 5 <= taken.count("all rights reserved") <= 40


def test_the_bytes_of_a_sample_are_those_of_the_memory() -> None:
    limit = 2_000_000
    tracemalloc.start()
    try:
        texts = iter(Sample((f"{number:060d}" for number in range(20_000)), bytes_at_most=limit))
        next(texts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.8 * limit < peak < 1.1 * limit


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    texts = [f"{number} {'x' * (number % 13) ** 3}" for number in range(500)]
    samples = [set(Sample(texts, bytes_at_most=size)) for size in range(5_000, 100_000, 5_000)]
    assert all(small <= large for small, large in itertools.pairwise(samples))


def beginnings(shards: list[list[str]], documents: int = 0, size: int = 0) -> tuple[list[str], MemorySource]:
    source = MemorySource(shards)
    data = DataConfig(eval_fraction=0.0)
    taken = documents_of_beginnings(data, [source], documents_at_most=documents, bytes_at_most=size)
    return list(taken), source


def test_a_sample_is_drawn_from_the_beginnings_of_64_shards() -> None:
    shards = [[f"{shard} {number}" for number in range(100)] for shard in range(200)]
    texts, source = beginnings(shards, 640)
    assert len(texts) == len(set(texts)) == source.records_read == 1280
    read = Counter(int(text.split()[0]) for text in texts)
    assert len(read) == 64 and set(read.values()) == {20}
    assert min(read) < 40 and max(read) > 160, "from all parts of the corpus"
    by_size, source = beginnings(shards, 0, 640 * (PER_DOCUMENT + 4))
    assert 1200 < len(by_size) == source.records_read < 1400


def test_a_corpus_of_few_or_short_shards_gives_as_much() -> None:
    few = [[f"{shard} {number}" for number in range(length)] for shard, length in enumerate((5, 900, 900))]
    texts, _ = beginnings(few, 300)
    assert len(texts) == len(set(texts)) == 600
    assert Counter(text.split()[0] for text in texts).keys() == {"0", "1", "2"}
    short = [[f"{shard} {number}" for number in range(3)] for shard in range(300)]
    texts, source = beginnings(short, 300)
    assert len(set(texts)) == 600 == source.records_read
    everything, _ = beginnings(short, 10_000)
    assert sorted(everything) == sorted(text for shard in short for text in shard)


def test_a_run_draws_from_shards_or_from_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [" ".join(text.split()) for text in DOCUMENTS]
    for shard in range(3):
        (tmp_path / f"{shard}.txt").write_text("\n".join(lines))
    data = DataConfig(source="files", path=f"{tmp_path}/*.txt", eval_fraction=0.0)
    seen: list[int] = []
    monkeypatch.setattr(TrainingProgress, "look", lambda self: seen.append(1))
    for place, read in (("shards", 60), ("corpus", 3 * len(lines))):
        config = TokenizerConfig(vocab_size=280, sample_documents=30, sample_from=place)
        ensure_tokenizer(config, data, epath.Path(tmp_path / place), model_max_length=64, progress=False)
        assert len(seen) == read
        seen.clear()


def test_a_sample_shows_how_many_documents_it_has_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_progress, "SECONDS_BETWEEN_LINES", 0.0)
    console = Console(file=io.StringIO(), width=100)
    with TrainingProgress(shown=True, console=console) as progress:
        next(iter(Sample(TEXTS, documents_at_most=10, looked_at=progress.look)))
    assert "drawing a sample, 1,500 documents looked at" in console.file.getvalue()


def test_a_sample_is_bounded_by_bytes_too_and_takes_all_without_a_limit() -> None:
    size = sum(size_of(text) for text in Sample(TEXTS, bytes_at_most=50_000))
    assert 49_000 < size <= 50_000
    both = list(Sample(TEXTS, documents_at_most=10, bytes_at_most=10**9))
    assert len(both) == 10
    assert list(Sample(TEXTS)) == list(Sample(TEXTS, documents_at_most=2000)) == TEXTS
    assert list(Sample(["long " * 100], bytes_at_most=5)) == ["long " * 100], "one is always taken"


def test_pairs_that_the_trainer_cannot_count_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_counts, "AT_ONCE", 100)
    monkeypatch.setattr(pair_counts, "MOST", 200)
    counts = PairCounts()
    counts.add(b"ab" * 100)
    counts.add(b"ab" * 100)
    with pytest.raises(UserError, match=r"the pair of bytes b'ab' occurs more than 200 times.*sample_bytes"):
        counts.add(b"ab" * 100)
    with pytest.raises(UserError, match="the pair of bytes b'ab'"):
        train_tokenizer(
            [*["ab" * 60] * 3, "ab" * 30],  # the last is less than is counted at once
            TokenizerConfig(vocab_size=300),
            epath.Path("/nonexistent"),
            model_max_length=64,
            progress=False,
        )


def test_pairs_that_no_word_has_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own splitter says which pairs a word may have."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    characters, around = "aZ1!'.\x00\x1f\x7f \t\n\r\v\f", ("", "a", " ", "\n", "!")
    found = set()
    for first, second, before, after in itertools.product(characters, characters, around, around):
        text = before + first + second + after
        spans = [span for _, span in splitter.pre_tokenize_str(text)]
        if any(start <= len(before) and len(before) + 2 <= stop for start, stop in spans):
            found.add(ord(first) * 256 + ord(second))
    counted = {ord(a) * 256 + ord(b) for a in characters for b in characters} & set(
        np.flatnonzero(pair_counts.IN_WORDS).tolist()
    )
    assert found <= counted and len(counted) < 0.75 * len(characters) ** 2
    monkeypatch.setattr(pair_counts, "MOST", 200)
    counts = PairCounts()
    counts.add(b"a b\n" * 150)
    counts.add(b"a\n" * 150)
    counts.check()  # "a " and "\na" are in no word; " b" is, 150 times
    counts.add(b" b" * 100)
    with pytest.raises(UserError, match="the pair of bytes b' b' occurs"):
        counts.check()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = TokenizerConfig(vocab_size=330)
    train_tokenizer(DOCUMENTS, config, epath.Path(folder), model_max_length=64, progress=False)
    return folder


def test_a_report_measures_tokens_words_bytes_and_unused_tokens(trained: Path) -> None:
    loaded = load(str(trained))
    texts = ["rain wind storm", "storm \u00e5"]
    measured = measure(loaded, texts)
    tokens = sum(map(len, loaded.encode(texts)))
    assert (measured.words, measured.bytes, measured.tokens) == (5, 23, tokens)
    assert measured.fertility == tokens / 5 and measured.bytes_per_token == 23 / tokens
    used = {int(token) for ids in loaded.encode(texts) for token in ids}
    assert measured.unused == loaded.vocab_size - 5 - len(used)
    assert measured.longest[0] in (" storm", "storm") and len(measured.longest) <= 10
    assert Measured(0, 0, 0, 0, ()).fertility == 0.0


def test_a_smaller_vocabulary_is_that_of_a_tokenizer_trained_to_it(trained: Path, tmp_path: Path) -> None:
    small = TokenizerConfig(vocab_size=290)
    expected = train_tokenizer(DOCUMENTS, small, epath.Path(tmp_path), model_max_length=64, progress=False)
    cut = with_vocabulary(load(str(trained)), 290)
    assert measure(cut, DOCUMENTS).tokens == measure(expected, DOCUMENTS).tokens
    assert cut.vocab_size == 290


def test_the_command_compares_tokenizers_and_files(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("\n".join(DOCUMENTS[:20]))
    out = tmp_path / "report.json"
    command = [
        "tokenizer.report",
        f"--tokenizer={trained}",
        f"--against={trained}",
        f"--files={tmp_path}/*.txt",
    ]
    assert main([*command, "--vocab_sizes=290,300", f"--out={out}"]) == 0
    shown = capsys.readouterr().out
    assert "fertility" in shown and "one.txt" in shown and "two.txt" in shown
    report = json.loads(out.read_text())
    assert [row["vocabulary"] for row in report["tokenizers"]] == [330, 330, 290, 300]
    assert len(report["tokenizers"][0]["files"]) == 2
    lines = [json.dumps({"content": text}) for text in DOCUMENTS[:20]]
    (tmp_path / "three.jsonl").write_text("\n".join(lines))
    fields = [f"{each[:-5]}three.jsonl" if each.startswith("--files") else each for each in command]
    assert main([*fields, "--text_field=content", f"--out={out}"]) == 0
    tokens = measure(load(str(trained)), DOCUMENTS[:20]).tokens
    assert json.loads(out.read_text())["tokenizers"][0]["tokens"] == tokens
    assert main([*command, "--text_field=content"]) == 0
    assert "--text_field='content' has no effect: all files of" in caplog.text
    for flags, message in [
        (fields, r"three.jsonl: no field 'text'; fields present: content; set --text_field"),
        (["tokenizer.report"], r"no --tokenizer given"),
        (["tokenizer.report", f"--tokenizer={trained}"], r"no --files given"),
        ([*command, "--vocab_sizes=9"], r"--vocab_sizes=9 should be numbers between 261 and 330"),
        ([*command, "--vocab_sizes=x"], r"--vocab_sizes=x should be numbers between"),
    ]:
        with pytest.raises(UserError, match=message):
            main(flags)
