"""What is logged, when, and as what mean."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from pretrain.devices.flops import StepWork
from pretrain.reports.recorder import Recorder, Sums


class Written:
    """Keeps what a MetricWriter would write."""

    def __init__(self):
        self.lines = {}

    def write(self, step, values):
        self.lines.setdefault(step, {}).update(values)


class Shape:
    hidden_size, num_hidden_layers, intermediate_size, vocab_size = 8, 1, 16, 32


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr("pretrain.reports.recorder.time.perf_counter", lambda: now[0])
    return now


def metrics(loss_sum, weight_sum, tokens=10.0):
    values = {"loss_sum": loss_sum, "weight_sum": weight_sum, "correct_sum": 1.0, "grad_norm": 0.5}
    values |= {"learning_rate": 1e-3, "tokens": tokens, "maskable": 0.8 * tokens, "attended": 100.0}
    return {name: jnp.float32(value) for name, value in values.items()}


def recorder(writer, every=2, last_step=5, **changes):
    return Recorder(
        writer, None, StepWork(Shape()), every=every, last_step=last_step, peak_flops=None, **changes
    )


def test_metrics_are_read_one_step_late_and_logged_every_so_often_and_at_the_last_step(clock):
    writer = Written()
    log = recorder(writer)
    seen = []
    for step in range(1, 6):
        log.step(step, metrics(2.0, 1.0), waited=0.0)
        seen.append(sorted(writer.lines))
    assert seen == [[], [], [2], [2], [2, 4]]
    log.flush()
    assert sorted(writer.lines) == [2, 4, 5]


def test_a_logged_loss_is_the_mean_over_predictions_not_over_steps(clock):
    writer = Written()
    log = recorder(writer)
    log.step(1, metrics(30.0, 10.0), waited=0.0)
    log.step(2, metrics(2.0, 2.0), waited=0.0)
    log.flush()
    assert writer.lines[2]["train/loss"] == pytest.approx(32.0 / 12.0)
    assert writer.lines[2]["train/accuracy"] == pytest.approx(2.0 / 12.0)


def test_a_run_that_stopped_between_logs_logs_the_same_mean(clock):
    first, second = Written(), Written()
    log = recorder(first)
    log.step(1, metrics(30.0, 10.0), waited=0.0)
    log.flush()
    assert log.sums == Sums(30.0, 1.0, 10.0, pytest.approx(8.0))
    resumed = recorder(second, sums=log.sums)
    resumed.step(2, metrics(2.0, 2.0), waited=0.0)
    resumed.flush()
    assert second.lines[2]["train/loss"] == pytest.approx(32.0 / 12.0)
    assert second.lines[2]["train/predicted_share"] == pytest.approx(12.0 / 16.0)


def test_rates_leave_pauses_out_and_count_waiting_in_its_own_interval(clock):
    writer = Written()
    log = recorder(writer)
    log.start()
    clock[0] += 1.0
    log.step(1, metrics(1.0, 1.0), waited=0.25)
    with log.paused():
        clock[0] += 50.0
    clock[0] += 3.0
    log.step(2, metrics(1.0, 1.0), waited=0.75)
    log.flush()
    assert writer.lines[2]["train/tokens_per_second"] == pytest.approx(20.0 / 4.0)
    assert writer.lines[2]["train/step_seconds"] == pytest.approx(2.0)
    assert writer.lines[2]["train/data_wait"] == pytest.approx(1.0 / 4.0)


def test_a_compilation_is_said_at_once_and_left_out_of_rates_and_the_time_left(clock, caplog):
    writer = Written()
    log = recorder(writer)
    left_out = []
    log._progress = SimpleNamespace(
        update=lambda *given, **more: None,
        log=lambda *given: None,
        restart=lambda: None,
        leave_out=left_out.append,
    )
    log.start()
    clock[0] += 1.0
    log.step(1, metrics(1.0, 1.0), waited=0.0)
    with caplog.at_level("INFO"), log.paused(compiling="the evaluation"):
        assert caplog.messages == ["compiling the evaluation ..."]
        clock[0] += 40.0
    with log.paused():
        clock[0] += 7.0
    clock[0] += 1.0
    log.step(2, metrics(1.0, 1.0), waited=0.0)
    log.flush()
    assert writer.lines[2]["train/tokens_per_second"] == pytest.approx(20.0 / 2.0)
    assert left_out == [40.0]


def test_without_a_known_peak_there_is_no_mfu(clock):
    writer = Written()
    log = recorder(writer, every=1)
    log.step(1, metrics(1.0, 1.0), waited=0.0)
    log.flush()
    assert "train/mfu" not in writer.lines[1]
