"""The run as a whole: what it leaves behind, and how it goes on."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import pretrain.__main__ as command
from base import schema
from base.errors import UserError
from pretrain.config import CardConfig, LogConfig, MeshConfig
from pretrain.devices import hardware
from pretrain.devices.mesh import make_mesh
from pretrain.export import export
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.quick_start import without_tensorboard
from tests.tiny import on_one_device, tiny_config, write_corpus

ROOT = Path(__file__).parents[2]
CONSTANT = {"schedule": {"name": "constant"}}
"""For runs of any length to share one step."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A run of 12 steps on one device, evaluated every 4; its folder and outcome."""
    workdir = epath.Path(tmp_path_factory.mktemp("runs") / "finished")
    config = tiny_config(corpus, steps=12, eval={"every": 4}, checkpoint={"every": 3, "keep": 2}, **CONSTANT)
    with on_one_device():
        return workdir, train(config, workdir), config


@pytest.fixture
def single():
    with on_one_device():
        yield


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_named_and_complete(finished):
    workdir, outcome, _ = finished
    lines = metrics(workdir)
    training = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in training] == list(range(1, 13))
    learned = ("loss", "accuracy", "perplexity", "predicted_share", "learning_rate", "grad_norm")
    for name in (*learned, "tokens_per_second", "mfu", "data_wait", "padding", "goodput"):
        assert f"train/{name}" in training[0]
    assert [line["step"] for line in lines if "eval/loss" in line] == [4, 8, 12]
    assert outcome.metrics["train/loss"] == training[-1]["train/loss"]
    assert training[-1]["train/loss"] < training[0]["train/loss"]


def test_the_newest_checkpoints_and_the_best_are_kept(finished):
    workdir, _, _ = finished
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    evaluations = {line["step"]: line["eval/loss"] for line in metrics(workdir) if "eval/loss" in line}
    best = min(evaluations, key=evaluations.__getitem__)
    assert steps == sorted({9, 12, best})
    assert restore_params(workdir, "best")[1]["step"] == best


def test_the_peak_that_mfu_is_a_share_of_is_kept(finished, single, corpus, monkeypatch, tmp_path):
    workdir = epath.Path(tmp_path / "longer")
    shutil.copytree(finished[0], workdir)
    kept = restore_params(workdir)[1]["peak"]
    assert kept["flops_per_second"] == finished[1].job.peak.flops_per_second
    monkeypatch.setattr(hardware, "_measure", lambda *given, **more: 1.0)
    outcome = train(finished[2], workdir)
    assert outcome.job.peak == finished[1].job.peak


def test_a_finished_run_says_so_and_changes_nothing(finished, single, caplog):
    workdir, outcome, config = finished
    before = (workdir / "metrics.jsonl").read_text()
    with caplog.at_level("INFO"):
        again = train(config, workdir)
    assert "this run is complete: 12 steps" in caplog.text
    assert again.step == outcome.step
    assert (workdir / "metrics.jsonl").read_text() == before


def test_the_card_of_a_finished_run_can_be_changed(finished, single, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    shutil.copytree(finished[0], workdir)
    before = json.loads((workdir / "config.json").read_text())
    card = {"language": "nb", "license": "apache-2.0"}
    changed = dataclasses.replace(finished[2], card=CardConfig(**card), log=LogConfig(every=7))
    train(changed, workdir)
    assert json.loads((workdir / "config.json").read_text()) == {**before, "card": card}
    export(workdir, epath.Path(tmp_path / "out"))
    header = (tmp_path / "out" / "README.md").read_text().split("---")[1]
    assert "apache-2.0" in header and "nb" in header.split()


def test_evaluation_gives_the_same_figure_each_time(finished, single):
    workdir, outcome, config = finished
    evaluated = {line["step"]: line for line in metrics(workdir) if "eval/loss" in line}
    from data.held_out_rows import evaluation_rows
    from pretrain.objective.evaluation import Evaluator

    job = outcome.job
    rows = evaluation_rows(
        config.data, job.tokenizer.encode, job.tokenizer.special, seq_len=config.seq_len, max_rows=16
    )
    for devices in (1, 8):
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        with jax.set_mesh(mesh):
            evaluator = Evaluator(job.model, job.evaluations[0], job.phases[0], mesh, rows)
            values = evaluator(jax.device_get(outcome.state.params))
        assert values["eval/loss"] == pytest.approx(evaluated[12]["eval/loss"], rel=1e-5)
    assert 3 < evaluated[12]["eval/frequency_loss"] < 5.7, "the logarithm of 300 tokens"


def test_a_changed_config_is_refused_on_resume(finished, single, corpus):
    workdir, _, _ = finished
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate was 0\.01, is 0\.02"):
        train(
            tiny_config(corpus, steps=12, optimizer={"learning_rate": 0.02}, eval={"every": 4}, **CONSTANT),
            workdir,
        )


def test_a_run_can_be_made_longer_when_the_change_is_accepted(finished, single, corpus, tmp_path):
    workdir = epath.Path(tmp_path / "longer")
    shutil.copytree(finished[0], workdir)
    longer = tiny_config(corpus, steps=14, eval={"every": 0}, checkpoint={"every": 3}, **CONSTANT)
    assert train(longer, workdir, accept_changes=True).step == 14


def test_a_changed_corpus_is_refused_on_resume(finished, single, tmp_path):
    workdir, _, config = finished
    corpus = Path(config.data.path)
    before = corpus.read_text()
    try:
        corpus.write_text(before + "one more document.\n")
        with pytest.raises(UserError, match="the corpus is not the one this run was made with"):
            train(config, workdir)
    finally:
        corpus.write_text(before)


def test_init_from_a_workdir_takes_params_network_and_tokenizer(finished, single, corpus, tmp_path):
    workdir, outcome, _ = finished
    frozen = {"optimizer": {"learning_rate": 1e-12, "weight_decay": 0.0}, "schedule": {"warmup_steps": 0}}
    config = tiny_config(corpus, steps=1, init_from=str(workdir), **frozen)
    other_network = tiny_config(corpus, steps=1, init_from=str(workdir), model={"hidden_size": 48}, **frozen)
    for number, started in enumerate((config, other_network)):
        begun = train(started, epath.Path(tmp_path / str(number)))
        assert begun.job.tokenizer.fingerprint() == outcome.job.tokenizer.fingerprint()
        for leaf, other in zip(
            jax.tree.leaves(begun.state.params), jax.tree.leaves(outcome.state.params), strict=True
        ):
            np.testing.assert_allclose(np.asarray(leaf), np.asarray(other), atol=1e-8)


def test_checkpoints_that_cannot_be_read_are_never_a_fresh_start(finished, single, tmp_path, caplog):
    workdir = epath.Path(tmp_path / "broken")
    shutil.copytree(finished[0], workdir)
    for path in (workdir / "checkpoints").glob("*/run/metadata"):
        path.unlink()
    with pytest.raises(UserError, match="none of the checkpoints"):
        train(finished[2], workdir)


def test_a_checkpoint_that_cannot_be_read_is_kept_aside_and_made_anew(finished, single, tmp_path, caplog):
    workdir = epath.Path(tmp_path / "damaged")
    shutil.copytree(finished[0], workdir)
    metadata = workdir / "checkpoints" / "12" / "state" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:100])
    outcome = train(finished[2], workdir)
    assert "checkpoint 12 cannot be read, trying the one before" in caplog.text
    assert outcome.step == 12
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert {"9", "12", "12.unreadable"} <= names
    for leaf, other in zip(
        jax.tree.leaves(restore_params(workdir)[0]),
        jax.tree.leaves(restore_params(finished[0])[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf, other)
    with pytest.raises(UserError, match="there is no checkpoint of step 11"):
        restore_params(workdir, 11)


PASSING = [
    ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError("timed out"),
    PermissionError(13, "Permission denied"),
    OSError(5, "Input/output error"),
    MemoryError(),
    ValueError("UNAVAILABLE: Error reading 'params' in OCDBT database: CURL error"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_a_passing_fault_stops_the_run_and_leaves_the_checkpoint_alone(error, tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2):
        checkpointer.save(step, {"x": np.arange(step)}, {"best": None})
    checkpointer.wait()

    def failing(*arguments, **more):
        raise Exception("Encountered error while reading array index") from error

    monkeypatch.setattr(checkpointer._manager, "restore", failing)
    message = r"checkpoint 2 in .* cannot be read now \(.*\); it is left as it is: run the same command again"
    for read in (checkpointer.read_run, lambda: checkpointer.restore({"x": np.zeros(2, np.int64)})):
        with pytest.raises(UserError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}
    monkeypatch.undo()
    assert checkpointer.read_run()["step"] == 2
    checkpointer.close()


def test_a_mistake_in_the_program_is_not_taken_for_damage(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"x": np.zeros(1)}, {"best": None})
    checkpointer.wait()

    def failing(*arguments, **more):
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(checkpointer._manager, "restore", failing)
    with pytest.raises(RuntimeError, match="cannot schedule"):
        checkpointer.read_run()
    monkeypatch.undo()
    checkpointer.close()


@pytest.mark.parametrize("wanted", [{"x": (3,)}, {"x": (2,), "y": (1,)}, {"y": (2,)}], ids=str)
def test_a_checkpoint_of_other_arrays_is_refused_and_left_alone(wanted, tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2):
        checkpointer.save(step, {"x": np.arange(2.0)}, {"best": None})
    checkpointer.wait()
    layout = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(shape, np.float32, sharding=layout) for name, shape in wanted.items()
    }
    with pytest.raises(
        UserError, match=r"the model differs from that of checkpoint 2 .*: put config.model back as it was"
    ) as caught:
        checkpointer.restore(abstract)
    assert "\n" not in str(caught.value)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}
    checkpointer.close()


def test_params_of_a_damaged_checkpoint_are_refused_in_one_line(finished, tmp_path):
    workdir = epath.Path(tmp_path / "damaged")
    shutil.copytree(finished[0], workdir)
    (workdir / "checkpoints" / "12" / "state" / "_METADATA").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"checkpoint 12 in .* cannot be read .*other steps: \[.*9.*\]"
    ) as caught:
        restore_params(workdir)
    assert "\n" not in str(caught.value)


def test_the_network_cannot_change_even_when_changes_are_accepted(finished, single, corpus):
    changed = tiny_config(corpus, steps=12, eval={"every": 4}, model={"hidden_size": 64}, **CONSTANT)
    with pytest.raises(UserError, match=r"config\.model\.hidden_size was 32, is 64"):
        train(changed, finished[0], accept_changes=True)


def test_a_corpus_that_moved_is_read_on_where_it_was_left(finished, single, tmp_path):
    workdir, _, config = finished
    moved = tmp_path / "moved" / Path(config.data.path).name
    moved.parent.mkdir()
    shutil.copy(config.data.path, moved)
    copy = epath.Path(tmp_path / "run")
    shutil.copytree(workdir, copy)
    longer = tiny_config(moved, steps=14, eval={"every": 0}, **CONSTANT)
    train(longer, copy, accept_changes=True)
    before, after = (restore_params(folder)[1]["data"]["0"] for folder in (workdir, copy))
    assert before.keys() == after.keys()
    for stream in before:
        assert (before[stream]["rows"], after[stream]["rows"]) == (12 * 2, 14 * 2)


def test_a_document_that_cannot_be_read_loses_no_step(finished, single, tmp_path):
    lines = write_corpus(tmp_path / "text.txt", documents=300).read_bytes().splitlines(keepends=True)
    corpus = tmp_path / "bad.txt"
    corpus.write_bytes(b"".join(lines[:250]) + b"\xff\xfe broken\n" + b"".join(lines[250:]))
    config = tiny_config(corpus, steps=200, tokenizer={"path": str(finished[0] / "tokenizer")}, **CONSTANT)
    with pytest.raises(UserError, match="line 251"):
        train(config, epath.Path(tmp_path / "run"))
    run = restore_params(tmp_path / "run")[1]
    assert 0 < run["step"] < 200
    assert max(line["step"] for line in metrics(epath.Path(tmp_path / "run"))) == run["step"]


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(corpus, tmp_path):
    """The command itself, killed politely while it trains, then run again."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import ml_collections\n"
        "def get_config():\n"
        "    c = ml_collections.ConfigDict()\n"
        "    c.steps, c.global_batch, c.seq_len = 100000, 8, 32\n"
        "    c.tokenizer = {'vocab_size': 300, 'min_frequency': 1}\n"
        f"    c.data = {{'source': 'files', 'path': {str(corpus)!r}, 'streams': 4, 'window': 8}}\n"
        "    c.model = {'hidden_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2,\n"
        "               'intermediate_size': 64, 'max_position_embeddings': 34}\n"
        "    c.compilation_cache = ''\n"
        "    c.eval, c.log, c.checkpoint = {'every': 0}, {'every': 1}, {'every': 100000}\n"
        "    return c\n"
    )
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "pretrain", f"--config={recipe}", f"--workdir={workdir}"]
    env = {**os.environ, "PYTHONPATH": f"{without_tensorboard(tmp_path / 'stand_ins')}{os.pathsep}{ROOT}"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=env, **streams)
    try:
        for line in process.stdout:
            if line.startswith("step "):
                break
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "SIGTERM: step" in output
    assert "To go on, run the same command" in output
    saved = restore_params(workdir)[1]["step"]
    assert saved > 0
    assert max(line["step"] for line in metrics(epath.Path(workdir))) == saved


def test_a_checkpoint_says_what_the_run_was_before_each_change(
    finished, single, corpus, tmp_path, monkeypatch
):
    workdir, _, config = finished
    copy = epath.Path(tmp_path / "copy")
    shutil.copytree(workdir, copy)
    assert {name: restore_params(copy)[1][name] for name in ("past", "local")} == {"past": [], "local": []}
    longer = dataclasses.replace(
        config, steps=13, optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-3)
    )
    train(longer, copy, accept_changes=True)
    train(dataclasses.replace(longer, steps=14, log=LogConfig(every=3)), copy, accept_changes=True)
    run = restore_params(copy)[1]
    assert [stage["until"] for stage in run["past"]] == [12, 13]
    assert [stage["config"] for stage in run["past"]] == [schema.as_dict(config), schema.as_dict(longer)]
    assert run["past"][0]["fingerprints"] == run["fingerprints"]
    export(copy, epath.Path(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- after step 12: `config.optimizer.learning_rate` from `0.01` to `0.001`\n" in card
    assert "- after step 13: `config.steps` from `13` to `14`\n" in card and "--accept_changes" in card


def test_a_picture_or_guesses_that_fail_cost_nothing(finished, single, monkeypatch, caplog, capsys):
    workdir, _, config = finished

    def fail(*_, **__):
        raise ValueError("no\nfont")

    monkeypatch.setattr("pretrain.reports.end_summary.write_loss_curve", fail)
    monkeypatch.setattr("pretrain.fill_mask.held_out_texts", fail)
    outcome = train(config, workdir)
    caplog.clear()  # a busy machine may be told that its peak was measured too low
    command._close(outcome, workdir)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "loss_curve.png could not be written: no font; run the same command again to have it",
        "the model's guesses could not be written: no font; run the same command again to have it",
    ]
    assert "to hand it over: " in capsys.readouterr().out
