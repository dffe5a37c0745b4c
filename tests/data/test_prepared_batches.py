"""Batches of prepared shards keep the contracts of the streams, in a global order that is a function of its index."""

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from data import token_streams
from data.batches import Batch
from data.config import DataConfig, SourceConfig
from data.corpus import corpus_fingerprint, count_steps, open_sources, training_documents
from data.document_counts import Counts
from data.held_out_documents import HeldOut
from data.held_out_rows import evaluation_rows, held_out_documents
from data.mixes import shares
from data.prepared import documents as prepared_documents
from data.prepared.documents import PreparedDocuments, shuffled
from data.prepared.index import INDEX, WORK
from data.prepared.source import PreparedSource
from data.random_orders import Shuffle
from data.sources import open_source
from tests.data.test_batches import assert_same, take, text_tokens
from tests.memory_corpus import FIRST_TOKEN, SPECIAL, Encoder, MemorySource, documents_of, make_corpus
from tests.prepared_corpus import write_numbers

CORPUS = make_corpus(3, 90)
CONFIG = DataConfig(source="prepared", streams=4, eval_fraction=0.1)
SHAPE = {"seed": 1, "seq_len": 16, "global_batch": 8}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PreparedSource:
    return write_numbers(tmp_path_factory.mktemp("shards"), CORPUS)


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and reads to an epoch, as with a real corpus."""
    monkeypatch.setattr(token_streams, "SMALLEST_CHUNK", 64)
    monkeypatch.setattr(token_streams, "LARGEST_CHUNK", 256)
    monkeypatch.setattr("data.prepared.documents.LARGEST_BLOCK", 5)
    monkeypatch.setattr("data.batches.PREPARED_WINDOW", 8)
    monkeypatch.setattr("data.corpus.PREPARED_WINDOW", 8)


def tokens_of(texts: list[str]) -> list[int]:
    return sorted(int(word) for text in texts for word in text.split())


def ordered_tokens(batches: list[Batch]) -> list[int]:
    joined = np.concatenate([batch.arrays["tokens"].ravel() for batch in batches])
    return joined[joined >= FIRST_TOKEN].tolist()


@pytest.mark.parametrize("packing", ["full", "documents", "best_fit", "lines"])
def test_resume_at_every_batch_repeats_and_loses_no_row(packing: str, source: PreparedSource) -> None:
    config = dataclasses.replace(CONFIG, packing=packing)
    whole = take(config, [source], epochs=3)
    assert whole[-1].states["0"]["epoch"] == 3
    for step in range(0, len(whole), 3):
        saved = json.loads(json.dumps(whole[step].states))
        assert_same(take(config, [source], epochs=3, states=saved), whole[step + 1 :])


@pytest.mark.parametrize("packing", ["full", "documents", "best_fit", "lines"])
def test_an_epoch_has_each_training_document_once_and_as_many_batches_as_were_counted(
    packing: str, source: PreparedSource
) -> None:
    config = dataclasses.replace(CONFIG, packing=packing)
    trained = [text for text in documents_of(CORPUS) if not HeldOut(0.1)(text)]
    assert 0 < len(trained) < 90
    batches = take(config, [source], epochs=2)
    assert text_tokens(batches) == sorted(2 * tokens_of(trained))
    assert count_steps(config, Encoder(), sources=[source], epochs=2, **SHAPE) == len(batches)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_make_the_same_global_batch(processes: int, source: PreparedSource) -> None:
    whole = take(CONFIG, [source], 12)
    share = 8 // processes
    for process in range(processes):
        rows = range(share * process, share * (process + 1))
        for part, batch in zip(take(CONFIG, [source], 12, rows=rows), whole, strict=True):
            for name, array in batch.arrays.items():
                np.testing.assert_array_equal(part.arrays[name], array[rows.start : rows.stop])
            assert part.states.items() <= batch.states.items()


def test_resume_on_another_number_of_processes(source: PreparedSource) -> None:
    whole = take(CONFIG, [source], 10)
    for rows in (range(4), range(4, 8), range(2, 4)):
        for one, other in zip(take(CONFIG, [source], 5, rows=rows, states=whole[4].states), whole[5:]):
            np.testing.assert_array_equal(
                one.arrays["tokens"], other.arrays["tokens"][rows.start : rows.stop]
            )


def test_a_change_of_length_batch_and_packing_in_mid_run_loses_and_repeats_nothing(
    source: PreparedSource,
) -> None:
    config = dataclasses.replace(CONFIG, packing="documents", eval_fraction=0.0)
    batches = take(config, [source], 3, epochs=2, seq_len=12)
    for packing, seq_len, global_batch in [("full", 21, 12), ("documents", 7, 4), ("lines", 10, 8)]:
        changed = dataclasses.replace(config, packing=packing)
        shape = {"seq_len": seq_len, "global_batch": global_batch}
        batches += take(changed, [source], 4, epochs=2, states=batches[-1].states, **shape)
    batches += take(config, [source], epochs=2, states=batches[-1].states)
    assert text_tokens(batches) == sorted(2 * tokens_of(documents_of(CORPUS)))


def test_a_mix_of_prepared_and_other_text_resumes_at_every_batch(source: PreparedSource) -> None:
    members = (SourceConfig(source="prepared", weight=3.0), SourceConfig(weight=1.0))
    config = DataConfig(source="mix", mix=members, streams=4, window=8, eval_fraction=0.1)
    sources = [source, MemorySource(make_corpus(5, 30, seed=1))]
    whole = take(config, sources, 40)
    assert whole[-1].states["0"]["start"]["members"][0] > [20], "the prepared member's epoch ends in the test"
    for step in range(0, len(whole), 4):
        saved = json.loads(json.dumps(whole[step].states))
        assert_same(take(config, sources, len(whole) - step - 1, states=saved), whole[step + 1 :])


def mixed(*weights: float, **changes: float) -> DataConfig:
    members = tuple(SourceConfig(source="prepared", path="x", weight=weight) for weight in weights)
    return DataConfig(
        **{"source": "mix", "mix": members, "streams": 4, "window": 8, "eval_fraction": 0.0, **changes}
    )


def test_weights_of_prepared_members_change_at_a_phase_and_each_keeps_its_place(
    source: PreparedSource, tmp_path: Path
) -> None:
    sources = [source, write_numbers(tmp_path, [["9000 9001"] * 9 + [f"{n}" for n in range(9002, 9100)]])]
    before = take(mixed(1.0, 1.0), sources, 4)
    changed = mixed(50.0, 1.0)
    after = take(changed, sources, 16, states=before[-1].states)
    for step in range(0, len(after) - 1, 2):
        saved = json.loads(json.dumps(after[step].states))
        assert_same(take(changed, sources, len(after) - step - 1, states=saved), after[step + 1 :])
    for stream, state in before[-1].states.items():
        first, last = state["end"], after[-1].states[stream]["start"]
        moved = [now[0] - then[0] for now, then in zip(last["members"], first["members"])]
        assert (first["weights"], last["weights"]) == ([1.0, 1.0], [50.0, 1.0])
        assert moved[0] >= 8 and moved[1] <= moved[0] // 3
    assert corpus_fingerprint(changed, sources) == corpus_fingerprint(mixed(1.0, 1.0), sources)


def test_the_temperature_of_a_mix_draws_members_by_their_size(source: PreparedSource, tmp_path: Path) -> None:
    small = write_numbers(tmp_path, make_corpus(1, 10), shards=1)
    assert shares(mixed(1.0, 2.0), [source, small]) == [1.0, 2.0]
    assert shares(mixed(1.0, 2.0, temperature=1.0), [source, small]) == [90.0, 20.0]
    assert shares(mixed(1.0, 1.0, temperature=0.5), [source, small]) == [90**0.5, 10**0.5]
    wrong = DataConfig(source="mix", mix=(SourceConfig(),), temperature=0.5)
    refusal = r"config.data.temperature=0.5 draws members by their size.*mix\[0\].source='pydoc'"
    with pytest.raises(UserError, match=refusal):
        open_sources(wrong)


def test_states_are_small_and_their_place_in_the_corpus_is_one_number(source: PreparedSource) -> None:
    for batch in take(CONFIG, [source], 9):
        for state in batch.states.values():
            assert len(json.dumps(state)) < 500
            assert len(state["start"] or [0]) == 1


def test_the_order_is_a_function_of_seed_epoch_and_index_and_of_nothing_else(source: PreparedSource) -> None:
    def read(seed: int, start: int, count: int) -> list[int]:
        first, stop = source.share(1, 4, 0.0)
        order = shuffled(stop - first, seed, 0, 1)
        documents = PreparedDocuments(source, first, stop, order, start, AssertionError)
        found = [documents.read(Counts()) for _ in range(count)]
        return [int(ids[0]) if ids is not None else -1 for ids in found]

    first, stop = source.share(1, 4, 0.0)
    period = stop - first + 1
    whole = read(1, 0, 2 * period)
    assert whole[period - 1] == whole[-1] == -1, "an epoch ends once"
    assert sorted(whole[:period]) == sorted(whole[period:]) and whole[:period] != whole[period:]
    assert all(read(1, start, 9) == whole[start : start + 9] for start in range(2 * period - 9))
    assert read(2, 0, period) != whole[:period] and sorted(read(2, 0, period)) == sorted(whole[:period])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_shuffle_is_a_permutation_that_needs_no_memory(size: int) -> None:
    places = np.arange(size)
    shuffle = Shuffle(size, "key", 5)
    assert sorted(shuffle(places).tolist()) == list(range(size))
    assert shuffle(places[size // 2 :]).tolist() == shuffle(places)[size // 2 :].tolist()
    if size > 10:
        assert abs(np.corrcoef(places, shuffle(places))[0, 1]) < 0.5
        assert shuffle(places).tolist() != Shuffle(size, "key", 6)(places).tolist()
    large = Shuffle(10**15, "key")(np.arange(1000))
    assert len(set(large.tolist())) == 1000 and large.max() > 9 * 10**14


def test_a_process_reads_the_shards_of_its_streams_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_numbers(tmp_path, make_corpus(1, 88), shards=8)
    opened: set[int] = set()
    read = source._read
    monkeypatch.setattr(source, "_read", lambda shard, records: opened.add(shard) or read(shard, records))
    config = dataclasses.replace(CONFIG, eval_fraction=0.0)
    take(config, [source], 12, rows=range(4, 6))
    assert opened == {4, 5}


def test_many_hosts_copy_each_byte_of_a_bucket_about_once_whatever_the_number_of_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = 32
    shards = 8 * hosts
    written = write_numbers(tmp_path / "bucket", make_corpus(1, 3000, longest=3), shards=shards)
    total = sum(shard.bytes for shard in written.index.shards)
    monkeypatch.setattr("data.prepared.source.is_remote", lambda path: True)
    config = DataConfig(source="prepared", streams=hosts, eval_fraction=0.02)
    copied: list[int] = []
    for host in range(0, hosts, 5):
        monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / f"cache{host}"))
        source = opened(tmp_path / "bucket")
        shape = {"rows": range(host, host + 1), "global_batch": hosts, "seq_len": 16}
        batches = take(config, [source], 60, **shape)
        assert batches[-1].states[str(host)]["epoch"] >= 2
        copied.append(
            sum(path.stat().st_size for path in (tmp_path / f"cache{host}").rglob("*.array_record"))
        )
    assert max(copied) < 1.4 * total / hosts


def test_the_documents_held_out_are_those_of_the_text_and_are_evaluated_on(source: PreparedSource) -> None:
    for fraction in (0.02, 0.1, 0.5):
        config = dataclasses.replace(CONFIG, eval_fraction=fraction)
        held = [text for text in documents_of(CORPUS) if HeldOut(fraction)(text)]
        found = source.documents(np.arange(source.held_out(fraction)))
        assert sorted(int(token) for ids in found for token in ids) == tokens_of(held)
        rows = evaluation_rows(config, Encoder(), SPECIAL, seq_len=32, max_rows=1000, sources=[source])
        tokens = rows["tokens"]
        assert sorted(tokens[tokens >= FIRST_TOKEN].tolist()) == tokens_of(held)


def test_an_evaluation_source_may_be_prepared(source: PreparedSource) -> None:
    own = SourceConfig(source="prepared", path=str(source.folder))
    config = DataConfig(streams=4, eval_source=own)
    rows = evaluation_rows(config, Encoder(), SPECIAL, seq_len=32, max_rows=1000)["tokens"]
    assert sorted(rows[rows >= FIRST_TOKEN].tolist()) == tokens_of(documents_of(CORPUS))
    assert sum(1 for _ in held_out_documents(config)) == 90


# ---- bad input -----------------------------------------------------------------------------------------------------


def opened(folder: Path) -> PreparedSource:
    return open_source(SourceConfig(source="prepared", path=str(folder)))  # type: ignore[return-value]


def test_a_folder_that_is_not_whole_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.data.path is not set; .* needs the folder"):
        open_source(SourceConfig(source="prepared"))
    with pytest.raises(UserError, match=r"has no index.json: it should be a folder that"):
        opened(tmp_path)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / INDEX).touch()
    with pytest.raises(UserError, match=r"index.json' is the index of a corpus; name its folder, .*corpus$"):
        opened(tmp_path / "corpus" / INDEX)
    (tmp_path / WORK).mkdir()
    with pytest.raises(UserError, match=r"is not whole: its preparation was stopped .* run the same"):
        opened(tmp_path)
    source = write_numbers(tmp_path, CORPUS)
    shard = tmp_path / source.shards[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-5])
    with pytest.raises(
        UserError, match=r"shard-00001-of-00003.array_record has \d+ bytes and not \d+, so index"
    ):
        opened(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00001-of-00003.array_record is missing"):
        opened(tmp_path)
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(UserError, match=r"shard-00001-of-00003.array_record is damaged"):
        opened(tmp_path).documents(np.arange(90))
    for text in ("{", "[]", "{}", '{"format": 2}', (tmp_path / INDEX).read_text().replace("uint16", "int8")):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(UserError, match=r"index.json is damaged \(.+\); prepare the corpus again"):
            opened(tmp_path)


def test_lengths_that_do_not_fit_the_index_are_refused(tmp_path: Path) -> None:
    source = write_numbers(tmp_path, CORPUS)
    file = tmp_path / "shard-00000-of-00003.lengths"
    whole = file.read_bytes()
    for wrong in (whole[:-1], whole[:-4], bytes(len(whole))):
        file.write_bytes(wrong)
        with pytest.raises(UserError, match=r"shard-00000-of-00003.lengths is damaged"):
            source.lengths(0, 90)
    file.write_bytes(whole[:-1])
    with pytest.raises(
        UserError, match=r"00000-of-00003.lengths has 119 bytes and not 120, so index.json is not"
    ):
        opened(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"shard-00000-of-00003.lengths is missing"):
        source.lengths(0, 90)
    with pytest.raises(UserError, match=r"shard-00000-of-00003.lengths is missing, so index"):
        opened(tmp_path)


def test_ids_of_another_tokenizer_and_uses_of_text_are_refused(source: PreparedSource) -> None:
    source.check_tokenizer("numbers")
    with pytest.raises(
        UserError, match=r"made with another tokenizer \(fingerprint numbers\) than the run's"
    ):
        source.check_tokenizer("letters")
    with pytest.raises(UserError, match=r"holds token ids and no text"):
        next(training_documents(CONFIG, [source]))


def test_too_few_documents_for_the_streams_are_refused(tmp_path: Path) -> None:
    source = write_numbers(tmp_path, [["5 6", "7 8"]], shards=1)
    with pytest.raises(
        UserError, match=r"has 2 documents, 0 of them held out: too few for config.data.streams=4"
    ):
        take(dataclasses.replace(CONFIG, eval_fraction=0.0), [source], 1)


def test_the_fingerprint_follows_the_content(tmp_path: Path, source: PreparedSource) -> None:
    again = write_numbers(tmp_path / "again", CORPUS)
    other = write_numbers(tmp_path / "other", make_corpus(3, 90, seed=1))
    assert corpus_fingerprint(CONFIG, [again]) == corpus_fingerprint(CONFIG, [source])
    assert corpus_fingerprint(CONFIG, [other]) != corpus_fingerprint(CONFIG, [source])


def test_reads_ahead_that_are_given_up_are_made_when_they_are_needed(source: PreparedSource) -> None:
    end = threading.Event()

    def read(give_up: bool) -> list[list[int]]:
        order = shuffled(30, 1)
        documents = PreparedDocuments(source, 0, 30, order, 0, lambda: UserError("empty"), ahead=True)
        found, given_up = [], 0
        for _ in range(70):
            if give_up:
                prepared_documents.cancel_reads()
                prepared_documents._reading.submit(end.wait, 10)  # so that no read ahead begins
                given_up += documents._coming is not None and documents._coming.cancelled()
            ids = documents.read(Counts())
            found.append([] if ids is None else ids.tolist())
        assert (given_up > 0) == give_up
        return found

    try:
        given_up = read(give_up=True)
    finally:
        end.set()
        prepared_documents.cancel_reads()
    assert given_up == read(give_up=False)


def test_reads_that_have_not_begun_do_not_hold_up_the_end(source: PreparedSource) -> None:
    begun, end = threading.Event(), threading.Event()
    prepared_documents._reading.submit(lambda: (begun.set(), end.wait(10)))
    begun.wait(10)
    waiting = prepared_documents._reading.submit(lambda: None)
    prepared_documents.cancel_reads()
    assert waiting.cancelled()
    end.set()
