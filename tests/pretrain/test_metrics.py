"""metrics.jsonl as the run's true history, and what reaches TensorBoard."""

import json
import logging
import math
import resource
import signal

import pytest

from pretrain.reports.metric_writer import MetricWriter, read_metrics


def steps(workdir):
    return [line["step"] for line in read_metrics(workdir / "metrics.jsonl")]


def test_each_write_is_a_line_that_is_there_at_once(tmp_path):
    with MetricWriter(tmp_path, trackers=()) as writer:
        writer.write(10, {"train/loss": 2.5, "train/accuracy": 0.25})
        writer.write(20, {"eval/loss": 2.0})
        text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 10, "train/loss": 2.5, "train/accuracy": 0.25}\n{"step": 20, "eval/loss": 2.0}\n'


def test_values_that_are_not_finite_become_null(tmp_path):
    with MetricWriter(tmp_path, trackers=()) as writer:
        writer.write(1, {"train/loss": math.nan, "train/perplexity": math.inf, "train/mfu": 0.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == {
        "step": 1,
        "train/loss": None,
        "train/perplexity": None,
        "train/mfu": 0.5,
    }


def test_resume_takes_out_later_steps_and_the_unfinished_line_of_a_crash(tmp_path):
    with MetricWriter(tmp_path, trackers=()) as writer:
        for step in (10, 20, 30, 40):
            writer.write(step, {"train/loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "train/lo')
    with MetricWriter(tmp_path, resume_step=20, trackers=()) as writer:
        assert steps(tmp_path) == [10, 20]
        writer.write(30, {"train/loss": 3.0})
    assert steps(tmp_path) == [10, 20, 30]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1] == {"step": 30, "train/loss": 3.0}


def test_a_fresh_run_starts_an_empty_history(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    MetricWriter(tmp_path, trackers=()).close()
    assert steps(tmp_path) == []


def test_on_an_object_store_the_file_is_written_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.reports.metric_writer.is_remote", lambda path: True)
    with MetricWriter(tmp_path, trackers=()) as writer:
        writer.write(10, {"train/loss": 1.0})
        assert steps(tmp_path) == []
        writer.flush()
        assert steps(tmp_path) == [10]
        monkeypatch.setattr("pretrain.reports.metric_writer.REWRITE_SECONDS", 0.0)
        writer.write(20, {"train/loss": 1.0})
    assert steps(tmp_path) == [10, 20]
    with MetricWriter(tmp_path, resume_step=10, trackers=()) as writer:
        writer.write(15, {"train/loss": 1.0})
    assert steps(tmp_path) == [10, 15]


def test_a_failed_write_is_a_warning(tmp_path, caplog):
    writer = MetricWriter(tmp_path, trackers=())
    writer._file.close()
    with caplog.at_level(logging.WARNING):
        writer.write(10, {"train/loss": 1.0})
    assert "metrics.jsonl could not be written" in caplog.text
    writer.close()


def test_events_that_cannot_be_opened_are_a_warning(tmp_path, caplog, monkeypatch):
    """TensorFlow raises errors of its own; on a full disk they ended the run with a traceback."""

    def full(folder):
        raise RuntimeError("no space is left")

    monkeypatch.setattr("pretrain.reports.metric_writer.EventWriter", full)
    with MetricWriter(tmp_path) as writer:
        writer.write_hyperparameters({"steps": 1})
        writer.write(1, {"loss": 2.0})
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2.0]
    assert caplog.messages == [
        "TensorBoard could not be written: no space is left; this call of the run has no events"
    ]


def test_lines_that_a_full_disk_refused_are_written_when_there_is_room(tmp_path, caplog):
    """Of thirty steps on a full disk, the first were missing for good."""
    with MetricWriter(tmp_path, trackers=()) as writer:
        writer.write(1, {"train/loss": 1.0})
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            for step in range(2, 400):
                writer.write(step, {"train/loss": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert (tmp_path / "metrics.jsonl").stat().st_size == 100
        writer.write(400, {"train/loss": 1.0})
        assert steps(tmp_path) == list(range(1, 401))


def test_tensorboard_gets_scalars_and_hyperparameters(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write_hyperparameters({"seed": 1, "phases": [], "steps": None, "optimizer.name": "adamw"})
        writer.write(10, {"train/loss": 2.5})
        writer.write(20, {"train/loss": math.nan})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Tensors("train/loss")
    assert [event.step for event in losses] == [10, 20]
    assert make_ndarray(losses[0].tensor_proto) == 2.5 and math.isnan(make_ndarray(losses[1].tensor_proto))
    hyperparameters = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.name" in hyperparameters and b"adamw" in hyperparameters
