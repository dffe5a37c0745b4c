"""Preparing a corpus: what each step drops and changes, and shards that are the same however they were made."""

import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

from base import lock
from base.errors import UserError
from base.schema import build
from data.config import DataConfig, SourceConfig
from data.held_out_documents import digest
from data.prepare import preparation, steps, tokenizing
from data.prepare.__main__ import main
from data.prepare.config import PrepareConfig, check_prepare
from data.prepare.near_duplicates import find_duplicates
from data.prepare.preparation import Prepared, Task, prepare
from data.prepared.index import INDEX
from data.prepared.source import PreparedSource
from tests.tiny import WORDS
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded, load
from tokenizer.train import train_tokenizer

LONG = {"length": {"min_words": 5}}


def sentences(seed: int, words: int = 40) -> str:
    draw = np.random.default_rng(seed)
    return " ".join(
        f"{WORDS[i]}{j}" for i, j in zip(draw.integers(0, len(WORDS), words), draw.integers(0, 50, words))
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig(vocab_size=320, min_frequency=1)
    texts = [sentences(seed) for seed in range(50)]
    train_tokenizer(texts, config, epath.Path(folder), model_max_length=32, progress=False)
    return folder


def write(folder: Path, *files: list[str]) -> DataConfig:
    folder.mkdir(parents=True, exist_ok=True)
    for number, texts in enumerate(files):
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"part{number}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return DataConfig(source="files", path=str(folder / "*.jsonl"), eval_fraction=0.0)


def task_of(data: DataConfig, tokenizer: Path | None, **values: Any) -> Task:
    config = build(PrepareConfig, {**LONG, **values}, "config.prepare")
    named = (
        TokenizerConfig(path=str(tokenizer))
        if tokenizer
        else TokenizerConfig(vocab_size=300, min_frequency=1)
    )
    return Task(config, data, named, 32)


def prepared(
    data: DataConfig, tokenizer: Path | None, out: Path, workers: int = 1, **values: Any
) -> Prepared:
    out.mkdir(exist_ok=True)
    return prepare(task_of(data, tokenizer, **values), epath.Path(out), None, workers)


def opened(out: Path) -> PreparedSource:
    return PreparedSource(SourceConfig(source="prepared", path=str(out)))


def texts_of(out: Path) -> list[str]:
    source, loaded = opened(out), load(str(out / "tokenizer"))
    return [loaded.decode(ids) for ids in source.documents(np.arange(len(source)))]


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_documents_that_are_kept_are_in_the_shards_in_the_order_of_their_digests(
    tmp_path: Path, tokenizer: Path
) -> None:
    parts = [sentences(seed) for seed in range(40)], [sentences(seed) for seed in range(40, 70)]
    data = write(tmp_path / "text", [*parts[0], "too short"], [*parts[1], parts[0][0], "too short"])
    made = prepared(data, tokenizer, tmp_path / "out", shards=3)
    texts = sorted([*parts[0], *parts[1]], key=digest)
    assert texts_of(tmp_path / "out") == texts
    index = made.index
    assert (index.documents, index.ids, len(index.shards)) == (70, "uint16", 3)
    encoded = load(str(tokenizer)).encode(texts)
    assert index.tokens == sum(map(len, encoded)) == opened(tmp_path / "out").lengths(0, 70).sum()
    assert [(source.name, source.documents) for source in index.sources] == [("0: files", 70)]
    total = made.report["total"]
    assert (total["read"], total["documents"], total["tokens"]) == (73, 70, index.tokens)
    assert total["steps"]["length"]["dropped"] == {"min_words": 2}
    assert total["steps"]["exact"]["dropped"] == {"within a source": 1}
    assert json.loads((tmp_path / "out/report.json").read_text()) == made.report
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.json", "report.json",
        *(f"shard-0000{n}-of-00003.{kind}" for n in range(3) for kind in ("array_record", "lengths")),
        "tokenizer",
    ]  # fmt: skip


def test_a_preparation_that_was_stopped_anywhere_goes_on_to_the_same_bytes(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[sentences(30 * part + n) for n in range(30)] for part in range(3)]
    data = write(tmp_path / "text", *texts)
    monkeypatch.setattr(tokenizing, "RUN_TOKENS", 900)
    prepared(data, tokenizer, tmp_path / "whole", shards=2)
    whole = content(tmp_path / "whole")
    stops: list[tuple[Any, str, int]] = [
        (steps, "write_array", 3), (steps, "write_json", 1), (steps, "write_json", 4), (tokenizing, "write_whole", 1),
        (tokenizing, "write_json", 2), (tokenizing, "publish", 1), (preparation, "write_text", 1),
    ]  # fmt: skip
    for number, (module, name, after) in enumerate(stops):
        out = tmp_path / f"stopped{number}"
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopping(getattr(module, name), after))
            with pytest.raises(KeyboardInterrupt):
                prepared(data, tokenizer, out, shards=2)
        assert not (out / INDEX).exists()
        prepared(data, tokenizer, out, shards=2)
        assert content(out) == whole


def stopping(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """The function, which a signal interrupts in its call number `after`."""
    calls = [0]

    def called(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == after + 1:
            raise KeyboardInterrupt
        return function(*arguments)

    return called


def test_the_memory_of_a_run_is_that_of_its_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [(digest(str(n)), np.full(100, n % 999, np.int32)) for n in range(2000)]
    step = tokenizing.Tokenizing(tmp_path, "", "uint16")
    monkeypatch.setattr(tokenizing, "load", lambda path: None)
    monkeypatch.setattr(step, "_encoded", lambda *_: ((number, ids.copy()) for number, ids in documents))
    work = tokenizing.Work(tmp_path)
    steps.write_json(work.path(steps.CLEAN, 0, ".json"), {"source": 0})
    tracemalloc.start()
    list(step.run())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 200_000, "two bytes a token, and room for the table"
    table = tokenizing.read_array(work.path(tokenizing.RUNS, 0, "-000.npy"))
    ids = np.fromfile(work.path(tokenizing.RUNS, 0, "-000.ids"), "<u2")
    expected = [each for _, each in sorted(documents, key=lambda one: one[0])]
    assert table["digest"].tolist() == sorted(number for number, _ in documents)
    np.testing.assert_array_equal(ids, np.concatenate(expected))


def test_parts_of_a_file_hold_each_document_once(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "RECORDS", 4)
    data = write(tmp_path / "text", [*(sentences(seed) for seed in range(30)), "", "too short"])
    whole = prepared(data, tokenizer, tmp_path / "whole")
    parts = prepared(data, tokenizer, tmp_path / "parts", parts=3)
    assert texts_of(tmp_path / "parts") == texts_of(tmp_path / "whole")
    assert parts.report == whole.report and parts.report["total"]["read"] == 32


@pytest.mark.slow
def test_the_output_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.fork")  # it may hang in a process with threads, such as those of JAX or of a lock
    data = write(tmp_path / "text", *[[sentences(9 * part + n) for n in range(9)] for part in range(3)])
    for workers in (1, 2):
        prepared(data, tokenizer, tmp_path / f"{workers}", workers, shards=2)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_a_tokenizer_is_trained_on_what_is_left_and_not_on_what_is_held_out(tmp_path: Path) -> None:
    texts = [sentences(seed) for seed in range(60)]
    data = DataConfig(**{**write(tmp_path / "text", texts).__dict__, "eval_fraction": 0.2})
    prepared(data, None, tmp_path / "out")
    kept = [text for text in texts if digest(text) >= int(0.2 * 2**64)]
    assert 0 < len(kept) < 60
    kept_in_order = epath.Path(tmp_path / "expected")
    config = TokenizerConfig(vocab_size=300, min_frequency=1)
    expected = train_tokenizer(kept, config, kept_in_order, model_max_length=32, progress=False)
    assert load(str(tmp_path / "out/tokenizer")).fingerprint() == expected.fingerprint()


def test_sources_are_counted_apart_and_duplicates_across_them_keep_the_first(
    tmp_path: Path, tokenizer: Path
) -> None:
    write(tmp_path / "a", [sentences(seed) for seed in range(5)])
    write(tmp_path / "b", [sentences(seed) for seed in range(3, 9)])
    members = tuple(SourceConfig(source="files", path=str(tmp_path / name / "*.jsonl")) for name in "ab")
    made = prepared(DataConfig(source="mix", mix=members), tokenizer, tmp_path / "out")
    assert [source.documents for source in made.index.sources] == [5, 4]
    assert made.report["sources"][1]["steps"]["exact"]["dropped"] == {"across sources": 2}


def test_planted_near_duplicates_are_found_and_nothing_else(tmp_path: Path, tokenizer: Path) -> None:
    draw = np.random.default_rng(0)
    originals = [sentences(seed, 120) for seed in range(300)]
    planted = []
    for text in originals[:100]:
        words = text.split()
        for place in draw.choice(
            len(words), 2, replace=False
        ):  # of 116 sequences of five words, 10 at most differ
            words[place] = "changed"
        planted.append(" ".join(words))
    related = []
    for text in originals[100:200]:  # half of the text is the same: similarity 0.33
        related.append(" ".join([*text.split()[:60], *sentences(int(draw.integers(1e6)), 60).split()]))
    data = write(tmp_path / "text", originals, planted + related)
    prepared(data, tokenizer, tmp_path / "out", steps=("near",))
    kept = set(texts_of(tmp_path / "out"))
    assert set(originals) <= kept, "the first copy is kept"
    found = {text for text in planted + related if text not in kept}
    right = len(found & set(planted))
    assert right / len(found) >= 0.95 and right / len(planted) >= 0.95


def test_groups_of_duplicates_keep_their_first_and_say_where_it_was() -> None:
    digests = np.array([5, 6, 5, 7, 6, 8], np.uint64)
    bands = [np.array([1, 2, 3, 3, 4, 5], np.uint64), np.array([1, 2, 3, 4, 5, 4], np.uint64)]
    sources = np.array([0, 0, 0, 1, 1, 1])
    assert find_duplicates(digests, [], sources).tolist() == [0, 0, 1, 0, 2, 0]
    assert find_duplicates(None, bands, sources).tolist() == [0, 0, 0, 4, 0, 4]
    assert find_duplicates(None, [], sources).tolist() == [0] * 6


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_a_folder_belongs_to_one_preparation(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "text", [sentences(seed) for seed in range(9)])
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tokenizing, "tokenize", stopping(tokenizing.tokenize, 0))
        with pytest.raises(KeyboardInterrupt):
            prepared(data, tokenizer, out)
    with pytest.raises(
        UserError,
        match=r"unmask-prepare holds an unfinished preparation with config.prepare.shards=0; set it back",
    ):
        prepared(data, tokenizer, out, shards=2)
    with pytest.raises(UserError, match=r"is not whole: its preparation was stopped"):
        opened(out)
    prepared(data, tokenizer, out)
    assert prepared(data, tokenizer, out).seconds == {}, "nothing is done again"
    with pytest.raises(UserError, match=r"holds a corpus that was prepared with another config.prepare"):
        prepared(data, tokenizer, out, shards=2)
    shutil.rmtree(out)
    out.mkdir()
    (tmp_path / "recipe.py").write_text(
        "import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )
    command = ["data.prepare", f"--config={tmp_path / 'recipe.py'}"]
    for flag, more in (("--out", []), ("--work", [f"--out={tmp_path / 'another'}"])):
        with lock.held(epath.Path(out), flag, "prepares"), monkeypatch.context() as patch:
            patch.setattr(lock, "_has_ended", lambda found: False)  # as if it were another process's
            with pytest.raises(
                UserError, match=rf"process \d+ on .* prepares in {flag}=.*: stop it, or set another"
            ):
                main([*command, f"{flag}={out}", *more])


def test_an_unknown_language_is_refused_before_the_source_is_opened(tmp_path: Path) -> None:
    fields = ("data.source=files", f"data.path={tmp_path / 'nowhere.txt'}", "prepare.steps=('language',)")
    flags = [f"--config.{each}" for each in (*fields, "prepare.language.keep=('xx',)")]
    with pytest.raises(UserError, match=r"config.prepare.language.keep: 'xx' is no ISO 639-1 code"):
        main(["prepare", "--config=configs/modernbert_small.py", f"--out={tmp_path / 'out'}", *flags])
    assert not (tmp_path / "out").exists()


def test_a_preparation_that_leaves_nothing_says_what_dropped_the_most(
    tmp_path: Path, tokenizer: Path
) -> None:
    data = write(tmp_path / "text", ["one two", "three four", "eight", ""])
    with pytest.raises(UserError) as error:
        prepared(data, tokenizer, tmp_path / "out")
    assert "none of the 4 documents is left" in str(error.value)
    assert "length: min_words (3), source: empty (1)" in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"steps": ("unicode", "qualty")},
            r"'qualty' is unknown \(did you mean 'quality'\?\); known: unicode",
        ),
        ({"masks": ("phone",)}, r"config.prepare.masks: 'phone' is unknown; known: email, ip, number"),
        ({"steps": ("exact", "near", "exact")}, r"config.prepare.steps has 'exact' 2 times; list it once"),
        ({"length": {"min_words": -1}}, r"config.prepare.length.min_words=-1 should be 0 or more"),
        ({"steps": ("language",)}, r"config.prepare.language.keep is empty"),
        ({"steps": ("overlap",)}, r"config.prepare.overlap.files is empty"),
        ({"steps": ("masks",), "masks": ()}, r"config.prepare.masks is empty"),
        ({"near": {"rows": 0}}, r"config.prepare.near.rows=0 should be 1 or more"),
        ({"shards": -1}, r"config.prepare.shards=-1 should be 1 or more, or 0"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_prepare(build(PrepareConfig, values, "config.prepare"))


def test_a_missing_tokenizer_a_bucket_without_work_and_prepared_sources_are_refused(
    tmp_path: Path, tokenizer: Path
) -> None:
    data = write(tmp_path / "text", [sentences(seed) for seed in range(9)])
    with pytest.raises(UserError, match=r"nowhere"):
        prepared(data, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"--out=gs://bucket/x is in a bucket; set --work to a local folder"):
        prepare(task_of(data, tokenizer), epath.Path("gs://bucket/x"), None, 1)
    already = DataConfig(source="prepared", path=str(tmp_path))
    with pytest.raises(UserError, match=r"config.data.source='prepared' is prepared already"):
        prepared(already, tokenizer, tmp_path / "out")


def test_the_number_of_shards_follows_size_and_hosts() -> None:
    count = preparation.shard_count
    assert count(build(PrepareConfig, {"shards": 5}), 10**12) == 5
    assert count(build(PrepareConfig, {"shard_tokens": 100}), 1) == 1
    assert count(build(PrepareConfig, {"shard_tokens": 100}), 901) == 10
    assert count(build(PrepareConfig, {"shard_tokens": 100, "hosts": 4}), 901) == 32


def test_large_vocabularies_have_ids_of_four_bytes(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loaded, "vocab_size", 1 << 17)
    data = write(tmp_path / "text", [sentences(seed) for seed in range(9)])
    assert prepared(data, tokenizer, tmp_path / "out").index.ids == "uint32"
    assert sorted(texts_of(tmp_path / "out")) == sorted(sentences(seed) for seed in range(9))
