"""The text of a tokenizer: a sample of the whole corpus in bounded memory, and counts that cannot overflow."""

import json
from pathlib import Path

import pytest
from etils import epath

from base.errors import UserError
from tests.tokenizer.test_tokenizer_training import DOCUMENTS
from tokenizer import pair_counts
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.pair_counts import PairCounts
from tokenizer.report import Measured, main, measure, with_vocabulary
from tokenizer.sample import Sample
from tokenizer.train import train_tokenizer

TEXTS = [f"text {number} \u00e5 \ud800" for number in range(2000)]


def test_a_sample_is_drawn_from_the_whole_corpus_in_its_order() -> None:
    sample = Sample(TEXTS, documents_at_most=200)
    taken = list(sample)
    assert len(taken) == len(set(taken)) == 200 and sample.left_out == 1800
    numbers = [int(text.split()[1]) for text in taken]
    assert numbers == sorted(numbers)
    tenths = [sum(number // 200 == tenth for number in numbers) for tenth in range(10)]
    assert min(tenths) >= 8 and max(tenths) <= 35, "each tenth of the corpus has about twenty"
    assert set(Sample(TEXTS[::-1], documents_at_most=200)) == set(taken), "whatever the order"
    assert set(Sample(TEXTS, documents_at_most=100)) < set(taken)


def test_a_sample_is_bounded_by_bytes_too_and_takes_all_without_a_limit() -> None:
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in Sample(TEXTS, bytes_at_most=5000))
    assert 4900 < size <= 5000
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
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    for flags, message in [
        (["tokenizer.report"], r"no --tokenizer given"),
        (["tokenizer.report", f"--tokenizer={trained}"], r"no --files given"),
        ([*command, "--vocab_sizes=9"], r"--vocab_sizes=9 should be numbers between 261 and 330"),
        ([*command, "--vocab_sizes=x"], r"--vocab_sizes=x should be numbers between"),
    ]:
        with pytest.raises(UserError, match=message):
            main(flags)
