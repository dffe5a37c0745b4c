"""What is logged, when, and as what mean."""

import math
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from pretrain.objective.causal import CausalLM
from pretrain.objective.masked import MaskedLM
from pretrain.reports.recorder import Interval, Recorder

MASKED = MaskedLM(None, 0.15)


class Written:
    """Keeps what a MetricWriter would write."""

    def __init__(self):
        self.lines = {}

    def write(self, step, values):
        self.lines.setdefault(step, {}).update(values)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr("pretrain.reports.recorder.time.perf_counter", lambda: now[0])
    return now


def metrics(loss_sum, weight_sum, tokens=10.0):
    values = {"loss_sum": loss_sum, "weight_sum": weight_sum, "correct_sum": 1.0, "grad_norm": 0.5}
    values |= {"learning_rate": 1e-3, "tokens": tokens, "maskable_sum": 0.8 * tokens, "attended": 100.0}
    return {name: jnp.float32(value) for name, value in values.items()}


def speed(interval: Interval):
    return {
        "train/tokens_per_second": float(interval.totals["tokens"]) / interval.seconds,
        "train/step_seconds": interval.seconds / interval.steps,
        "train/data_wait": interval.waited / interval.seconds,
    }


def recorder(*writers, every=2, last_step=5, summarise=MASKED.summarise, **changes):
    return Recorder(
        writers, None, summarise=summarise, rates=speed, every=every, last_step=last_step, **changes
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
    assert log.sums == {
        "loss_sum": 30.0,
        "correct_sum": 1.0,
        "weight_sum": 10.0,
        "maskable_sum": pytest.approx(8.0),
    }
    resumed = recorder(second, sums=log.sums)
    resumed.step(2, metrics(2.0, 2.0), waited=0.0)
    resumed.flush()
    assert second.lines[2]["train/loss"] == pytest.approx(32.0 / 12.0)
    assert second.lines[2]["train/predicted_share"] == pytest.approx(12.0 / 16.0)


def test_an_objective_is_logged_at_its_last_step_and_has_metrics_of_its_own(clock):
    writer = Written()
    objective = MASKED
    log = recorder(
        writer, every=10, last_step=20, log_at=[2], summarise=lambda sums: objective.summarise(sums)
    )
    log.step(1, metrics(30.0, 10.0), waited=0.0)
    log.step(2, metrics(2.0, 2.0), waited=0.0)
    log.flush()
    objective = CausalLM(separator=2)
    log.start()
    log.step(3, {k: v for k, v in metrics(40.0, 10.0).items() if k != "maskable_sum"}, waited=0.0)
    log.flush()
    assert sorted(writer.lines) == [2]
    assert writer.lines[2]["train/loss"] == pytest.approx(32.0 / 12.0)
    assert log.sums == {"loss_sum": 40.0, "correct_sum": 1.0, "weight_sum": 10.0}
    log.step(10, {k: v for k, v in metrics(40.0, 10.0).items() if k != "maskable_sum"}, waited=0.0)
    log.flush()
    assert writer.lines[10]["train/loss"] == pytest.approx(4.0)
    assert "train/predicted_share" in writer.lines[2] and "train/predicted_share" not in writer.lines[10]


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


def test_each_member_of_a_population_has_its_own_lines_beside_their_means(clock):
    mean, first, second = Written(), Written(), Written()

    def summarise(sums):
        return {"loss": sums["loss_sum"] / sums["weight_sum"]}

    log = recorder(
        mean, first, second, summarise=summarise, sums={"loss_sum": [2.0, 5.0], "weight_sum": [1.0, 1.0]}
    )
    clock[0] += 2.0
    values = {"loss_sum": [4.0, 7.0], "weight_sum": [2.0, 2.0], "learning_rate": [0.5, 0.25]}
    log.step(2, {**{name: jnp.array(value) for name, value in values.items()}, "tokens": 6}, waited=0.0)
    log.flush()
    assert first.lines == {2: {"train/loss": 2.0, "train/learning_rate": 0.5}}
    assert second.lines == {2: {"train/loss": 4.0, "train/learning_rate": 0.25}}
    rates = {"train/tokens_per_second": 3.0, "train/step_seconds": 2.0, "train/data_wait": 0.0}
    assert mean.lines == {2: {"train/loss": 3.0, "train/learning_rate": 0.375, **rates}}
    assert log.sums == {}
    log.evaluation(2, {"eval/loss": 1.5}, [{"eval/loss": 1.0}, {"eval/loss": 2.0}])
    assert [each.lines[2]["eval/loss"] for each in (mean, first, second)] == [1.5, 1.0, 2.0]


def test_sums_that_a_run_was_stopped_with_are_kept_as_they_were_saved(clock):
    log = recorder(Written(), sums={"loss_sum": [2.0, 5.0]})
    assert log.sums == {"loss_sum": [2.0, 5.0]}


def test_a_loss_that_is_no_number_has_a_perplexity_that_is_none():
    sums = {"loss_sum": float("nan"), "correct_sum": 1.0, "weight_sum": 2.0, "maskable_sum": 8.0}
    found = MASKED.summarise(sums)
    assert math.isnan(found["perplexity"]) and (found["accuracy"], found["predicted_share"]) == (0.5, 0.25)
    assert MASKED.summarise({**sums, "loss_sum": 4.0})["perplexity"] == math.exp(2.0)


def test_a_measurement_of_the_machine_is_no_time_of_the_steps_that_follow(clock):
    written = Written()

    def measuring(interval):
        clock[0] += 5.0 if interval.last_step == 1 else 0.0
        return speed(interval)

    record = recorder(written, every=1)
    record._rates = measuring
    record.start()
    for step in (1, 2, 3):
        clock[0] += 1.0
        record.step(step, metrics(1.0, 1.0), waited=0.0)
    record.flush()
    assert written.lines[2]["train/step_seconds"] == 1.0
