"""Held-out rows are read once, are the same from the workdir as from the corpus, and few of them are warned of."""

import dataclasses
import json
import logging
import re

import jax
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from base.schema import as_dict
from data.config import DataConfig
from data.held_out_rows import evaluation_rows
from data.prepared.source import PreparedSource
from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh
from pretrain.job import assemble
from pretrain.objective import held_out_cache
from pretrain.objective.held_out_cache import check_held_out, held_out_rows
from pretrain.phases import resolve_phases
from pretrain.runtime import processes
from pretrain.train import train
from tests.memory_corpus import make_corpus
from tests.prepared_corpus import write_numbers
from tests.tiny import tiny_config, write_corpus
from tokenizer.run_tokenizer import ensure_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt", documents=300)


@pytest.fixture(scope="module")
def tokenizer(corpus, tmp_path_factory):
    config, folder = tiny_config(corpus), epath.Path(tmp_path_factory.mktemp("tokenizer"))
    return ensure_tokenizer(config.tokenizer, config.data, folder, model_max_length=32, progress=False)


@pytest.fixture
def reads(monkeypatch):
    """The row lengths for which the corpus has been read."""
    lengths = []

    def reading(*arguments, seq_len, **options):
        lengths.append(seq_len)
        return evaluation_rows(*arguments, seq_len=seq_len, **options)

    monkeypatch.setattr(held_out_cache, "evaluation_rows", reading)
    return lengths


def phase_of(corpus, **data):
    return resolve_phases(tiny_config(corpus, data={"eval_fraction": 0.2, **data}))[0]


@pytest.mark.parametrize("packing", ["full", "documents", "lines"])
def test_rows_from_the_workdir_are_those_of_the_corpus_to_the_bit(
    packing, corpus, tokenizer, tmp_path, reads
):
    workdir, phase = epath.Path(tmp_path), phase_of(corpus, packing=packing)
    expected = evaluation_rows(
        phase.data, tokenizer.encode, tokenizer.special, seq_len=phase.seq_len, max_rows=30
    )
    for _ in range(3):
        rows = held_out_rows(workdir, phase, tokenizer, 30)
        assert list(rows) == list(expected)
        for name, array in expected.items():
            assert rows[name].dtype == array.dtype
            np.testing.assert_array_equal(rows[name], array)
    assert reads == [32]
    assert [path.name for path in tmp_path.iterdir()] == ["heldout_0.npz"]


def test_rows_of_another_config_tokenizer_or_corpus_are_read_again(
    corpus, tokenizer, tmp_path, reads, caplog
):
    workdir, phase = epath.Path(tmp_path), phase_of(corpus)
    longer = write_corpus(tmp_path / "text.txt", documents=301)
    with caplog.at_level(logging.INFO, "pretrain"):
        held_out_rows(workdir, phase, tokenizer, 30)
        assert not caplog.records
        for changed, max_rows in (
            (dataclasses.replace(phase, seq_len=24), 30),
            (phase, 20),
            (phase_of(corpus, eval_fraction=0.3), 30),
            (phase_of(longer), 30),
        ):
            before = len(reads)
            held_out_rows(workdir, changed, tokenizer, max_rows)
            held_out_rows(workdir, changed, tokenizer, max_rows)
            assert len(reads) == before + 1
            assert caplog.messages == [
                f"{tmp_path}/heldout_0.npz is of another config, tokenizer or corpus: "
                "the held-out rows are read from the corpus again"
            ]
            caplog.clear()


def test_a_file_that_cannot_be_read_now_is_left_alone():
    def read_bytes():
        raise PermissionError(13, "Permission denied")

    class File(type(epath.Path())):
        def exists(self):
            return True

        def read_bytes(self):
            read_bytes()

    with pytest.raises(
        UserError, match=r"heldout_0\.npz cannot be read now \(PermissionError: .*left as it is"
    ):
        held_out_cache._load(File("/run/heldout_0.npz"), "key")


@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: whole[:400], lambda whole: b"no archive"]
)
def test_a_damaged_file_is_said_so_and_replaced(damage, corpus, tokenizer, tmp_path, reads, caplog):
    workdir, phase, file = epath.Path(tmp_path), phase_of(corpus), tmp_path / "heldout_0.npz"
    expected = held_out_rows(workdir, phase, tokenizer, 30)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with caplog.at_level(logging.INFO, "pretrain"):
        rows = held_out_rows(workdir, phase, tokenizer, 30)
    (message,) = caplog.messages
    assert "heldout_0.npz cannot be read (" in message and "\n" not in message
    for name, array in expected.items():
        np.testing.assert_array_equal(rows[name], array)
    held_out_rows(workdir, phase, tokenizer, 30)
    assert len(reads) == 2


def test_nothing_that_runs_is_read_from_the_file(corpus, tokenizer, tmp_path, reads):
    workdir, phase, file = epath.Path(tmp_path), phase_of(corpus), tmp_path / "heldout_0.npz"
    held_out_rows(workdir, phase, tokenizer, 30)
    with np.load(file, allow_pickle=False) as kept:
        arrays = dict(kept)
    with file.open("wb") as out:
        np.savez(out, **{**arrays, "tokens": np.array([print], dtype=object)})
    held_out_rows(workdir, phase, tokenizer, 30)
    assert len(reads) == 2


def test_phases_keep_their_own_rows(corpus, tokenizer, tmp_path, reads):
    config = tiny_config(
        corpus, steps=None, phases=[{"steps": 1, "seq_len": 16}, {"steps": 1, "seq_len": 32}]
    )
    for _ in range(2):
        for phase in resolve_phases(config):
            assert held_out_rows(epath.Path(tmp_path), phase, tokenizer, 4)["tokens"].shape == (
                4,
                phase.seq_len,
            )
    assert reads == [16, 32]


@pytest.mark.parametrize(
    ("documents", "fraction", "seq_len", "max_rows", "warned"),
    [
        (30, 0.1, 8, 1000, True),  # three documents
        (300, 0.1, 512, 100, True),  # rows, if not documents, are few
        (300, 0.1, 32, 1000, False),
        (300, 0.1, 32, 4, False),  # as many rows as were asked for
    ],
)
def test_a_handful_of_rows_or_documents_is_warned_of(
    documents, fraction, seq_len, max_rows, warned, tokenizer, tmp_path, caplog
):
    corpus = write_corpus(tmp_path / "text.txt", documents=documents)
    phase = dataclasses.replace(phase_of(corpus, eval_fraction=fraction), seq_len=seq_len)
    for _ in range(2):  # from the corpus, and from the workdir
        rows = len(held_out_rows(epath.Path(tmp_path), phase, tokenizer, max_rows)["tokens"])
        messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(messages) == warned
        if warned:
            assert messages[0].startswith(f"only {rows} rows of ")
            assert f"raise config.data.eval_fraction={fraction} or set config.data.eval_source" in messages[0]
        caplog.clear()


def test_nothing_held_out_is_refused_as_before(corpus, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.eval_fraction=0\.0 holds no document out"):
        held_out_rows(epath.Path(tmp_path), phase_of(corpus, eval_fraction=0.0), tokenizer, 30)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_evaluations_are_the_same_to_the_bit_with_the_file_and_without(corpus, tmp_path, monkeypatch, reads):
    monkeypatch.setattr("pretrain.job.make_mesh", lambda config: make_mesh(MeshConfig(), jax.devices()[:1]))

    def evaluations(name, *stops, forget=False):
        workdir = epath.Path(tmp_path / name)
        for steps in stops:
            if forget:
                (workdir / "heldout_0.npz").unlink(missing_ok=True)
            config = tiny_config(
                corpus,
                steps=steps,
                schedule={"name": "constant"},
                eval={"every": 1},
                data={"eval_fraction": 0.2},
            )
            train(config, workdir, accept_changes=True)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}

    whole = evaluations("whole", 4)
    assert len(whole) == 4 and len(reads) == 1
    assert evaluations("resumed", 2, 4) == whole
    assert len(reads) == 2
    assert evaluations("resumed without the file", 2, 4, forget=True) == whole
    assert len(reads) == 4


@pytest.mark.parametrize("fraction", [0.0, 1e-9])
def test_nothing_held_out_is_refused_before_a_tokenizer_is_trained(corpus, tmp_path, fraction):
    config = tiny_config(corpus, data={"eval_fraction": fraction}, eval={"every": 1})
    with pytest.raises(UserError, match=r"config\.data\.eval_fraction=\S+ holds no document out"):
        assemble(config, epath.Path(tmp_path / "run"), None)
    assert not (tmp_path / "run").exists()


def test_the_data_of_a_phase_is_named_where_it_holds_nothing_out(corpus, tmp_path):
    data = as_dict(tiny_config(corpus, data={"eval_fraction": 1e-9}).data)
    config = tiny_config(corpus, steps=0, phases=[{"steps": 8, "data": data}], eval={"every": 1})
    with pytest.raises(UserError) as error:
        assemble(config, epath.Path(tmp_path / "run"), None)
    assert str(error.value).startswith("config.phases[0].data.eval_fraction=1e-09 holds no document out")
    assert "set config.phases[0].data.eval_source" in str(error.value)


def test_few_held_out_documents_are_said_before_a_tokenizer_is_trained(corpus, caplog):
    check_held_out(dataclasses.replace(tiny_config(corpus).data, eval_fraction=0.5), seq_len=8)
    assert not caplog.messages
    check_held_out(dataclasses.replace(tiny_config(corpus).data, eval_fraction=0.01), seq_len=8)
    assert re.fullmatch(
        r"only \d documents of \d+ characters are held out, too few to measure by; raise "
        r"config\.data\.eval_fraction=0\.01 or set config\.data\.eval_source now, before the tokenizer is made from "
        r"the other documents",
        caplog.messages[-1],
    )


def test_few_held_out_documents_of_shards_are_counted_in_tokens(tmp_path, caplog):
    write_numbers(tmp_path, make_corpus(1, 90))
    data = DataConfig(source="prepared", path=str(tmp_path), eval_fraction=0.5)
    check_held_out(data, seq_len=2)
    assert not caplog.messages
    check_held_out(dataclasses.replace(data, eval_fraction=0.05), seq_len=8)
    held = PreparedSource(data).held_out(0.05)
    tokens = PreparedSource(data).lengths(0, held).sum()
    assert caplog.messages[-1] == (
        f"only {held} documents of {tokens} tokens are held out, too few to measure by; raise "
        "config.data.eval_fraction=0.05 or set config.data.eval_source"
    )


def test_a_process_waits_for_the_first_as_often_whether_or_not_the_tokenizer_is_made_by_then(
    corpus, tmp_path, monkeypatch
):
    """The first may have made it before another process comes to look: what waits is counted, and is to match."""
    waits, checked = [], []
    for name in ("from_first", "first_then_all"):
        known = getattr(processes, name)
        monkeypatch.setattr(
            processes,
            name,
            lambda make, *what, known=known, name=name: waits.append(name) or known(make, *what),
        )
    monkeypatch.setattr("pretrain.job.check_held_out", lambda data, seq_len, place: checked.append(seq_len))
    config = tiny_config(corpus, eval={"every": 4})
    assemble(config, epath.Path(tmp_path / "run"), None)
    before = waits.copy()
    waits.clear()
    assert checked == [32]
    assemble(config, epath.Path(tmp_path / "run"), None)
    assert waits == before
    assert checked == [32]
