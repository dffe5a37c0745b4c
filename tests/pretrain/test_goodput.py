"""The account of a run's time: sums, restarts, lost and skipped steps, and what is shown of it."""

import io
import json
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import pytest
from etils import epath
from rich.console import Console

from pretrain.optim.finite import NONFINITE
from pretrain.reports.metric_writer import read_metrics
from pretrain.reports.progress_line import Progress
from pretrain.runtime import goodput
from pretrain.runtime.goodput import Account, Spent
from tests.pretrain.test_loop import Counting, loop

BEGIN = 1000.0


class Time:
    """A clock that a test turns; it tells the seconds since 1970 too."""

    def __init__(self):
        self.now = BEGIN

    def __call__(self):
        return self.now

    def account(self):
        return Account(clock=self, now=self)


class Work:
    """The metrics of a step at which the devices work until a test says that they have finished."""

    def __init__(self):
        self.ready = threading.Event()

    def block_until_ready(self):
        assert self.ready.wait(20)
        return self

    def finish(self, account):
        finished, end = account._finished, time.monotonic() + 20
        self.ready.set()
        while account._finished == finished and time.monotonic() < end:
            time.sleep(0.001)
        assert account._finished == finished + 1


@pytest.fixture
def clock():
    return Time()


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def spend(account, clock, category, seconds):
    with account.spending(category):
        clock.now += seconds


def counted(account):
    """The seconds of each category that has any."""
    account.end()
    return {category: seconds for category, seconds in account._spent.seconds.items() if seconds}


def kept(workdir):
    return json.loads((workdir / "goodput.json").read_text())


def test_categories_sum_to_the_wall_time(clock):
    account = clock.account()
    clock.now += 5
    spend(account, clock, "restore", 2)
    spend(account, clock, "compile", 10)
    clock.now += 1
    for _ in range(3):
        spend(account, clock, "step", 4)
    with account.spending("evaluation"):
        clock.now += 3
        spend(account, clock, "save", 0.5)
        clock.now += 1
    spend(account, clock, "something new", 0.25)
    clock.now += 0.25
    expected = {
        "start": 6,
        "restore": 2,
        "compile": 10,
        "step": 12,
        "evaluation": 4,
        "save": 0.5,
        "other": 0.5,
    }
    assert counted(account) == expected and sum(expected.values()) == clock.now - BEGIN


def test_a_wait_costs_only_what_it_keeps_the_devices_waiting(clock):
    account, first, second = clock.account(), Work(), Work()
    account.dispatched({"loss_sum": first})
    spend(account, clock, "data", 3)  # meanwhile the devices work
    with account.spending("evaluation"):  # it waits for the step first
        clock.now += 1
        first.finish(account)
        clock.now += 10
    account.dispatched({"loss_sum": second})
    with account.spending("data"):
        clock.now += 4
        second.finish(account)
        clock.now += 2
    assert counted(account) == {"step": 8, "evaluation": 10, "data": 2}
    account.close()
    assert not account._thread.is_alive()


def test_an_error_of_a_step_is_left_to_the_loop(clock):
    class Broken:
        def block_until_ready(self):
            raise ArithmeticError("the device has failed")

    account = clock.account()
    account.dispatched({"loss_sum": Broken()})
    account.close()
    assert account._finished == 1


def call(workdir, clock, begin, end, *, save_at=(), is_killed=False):
    """A call with a start of 1 s, saves of 0.5 s and steps of 2 s, but for the seventh; returns its last line."""
    account = clock.account()
    clock.now += 1
    account.keep(workdir, begin)
    for step in range(begin + 1, end + 1):
        spend(account, clock, "step", 4 if step == 7 else 2)
        account.log(step)
        if step in save_at:
            spend(account, clock, "save", 0.5)
            account.saved(step, save_at)
    return "" if is_killed else account.end()


def test_steps_that_are_made_again_are_lost_and_the_time_between_calls_is_apart(workdir, clock):
    call(workdir, clock, 0, 7, save_at=(3, 5), is_killed=True)
    clock.now += 60
    line = call(workdir, clock, 5, 10)
    found = kept(workdir)
    spent = {category: seconds for category, seconds in found["seconds"].items() if seconds}
    assert spent == {"start": 2, "step": 22, "save": 1, "lost": 6}
    assert sum(spent.values()) == clock.now - BEGIN - 60
    assert (found["calls"], found["down"], found["step"]) == (2, 60, 10)
    assert found["marks"] == {"3": 6, "5": 10}, "the checkpoints that are kept"
    assert found["goodput"] == pytest.approx(22 / 31, abs=1e-6)
    assert line == (
        "goodput 71.0% of 31s: lost steps 19.4%, start 6.5%, saving 3.2%; down for 1m00s between 2 calls"
    )


def test_the_time_of_lost_steps_is_that_which_they_took():
    spent = Spent(step=10, marks={4: 4.0, 8: 40.0})
    spent.seconds["step"] = 42.0
    spent.go_back(8)
    assert (spent.seconds["step"], spent.seconds["lost"], spent.step) == (40.0, 2.0, 8)
    spent.go_back(6)  # no checkpoint that the account knows
    assert (spent.seconds["step"], spent.seconds["lost"]) == (22.0, 20.0) and spent.marks == {4: 4.0}
    spent.go_back(9)
    assert (spent.seconds["step"], spent.step) == (22.0, 9)
    spent.go_back(0)
    assert (spent.seconds["step"], spent.seconds["lost"]) == (0.0, 42.0)


def test_steps_are_lost_where_a_call_goes_back_by_itself(workdir, clock):
    account = clock.account()
    for begin, end in ((0, 5), (3, 4)):
        account.keep(workdir, begin)
        for step in range(begin, end):
            spend(account, clock, "step", 2)
            account.log(step + 1)
    assert counted(account) == {"step": 8, "lost": 4}
    assert (kept(workdir)["calls"], kept(workdir)["step"]) == (1, 4)


def test_a_run_that_is_older_than_its_account_goes_on(workdir, clock):
    call(workdir, clock, 100, 104)
    assert kept(workdir)["begin"] == 100
    call(workdir, clock, 102, 103)
    assert kept(workdir)["seconds"]["lost"] == 4 and kept(workdir)["seconds"]["step"] == 6


def test_steps_that_are_skipped_do_not_count(workdir, clock):
    account = clock.account()
    account.keep(workdir, 0)
    spend(account, clock, "step", 8)
    assert account.log(4) == 1.0
    spend(account, clock, "step", 8)
    assert account.log(8, skipped=0.25) == 14 / 16
    assert counted(account) == {"step": 14, "skipped": 2}


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: "",
        lambda whole: "[]",
        lambda whole: json.dumps(whole)[:-9],
        lambda whole: json.dumps({"seconds": whole["seconds"]}),
        lambda whole: json.dumps({**whole, "seconds": {**whole["seconds"], "step": -1.0}}),
        lambda whole: json.dumps({**whole, "down": float("nan")}),
        lambda whole: json.dumps({**whole, "step": 0.5}),
        lambda whole: json.dumps({**whole, "marks": {"x": 1.0}}),
    ],
)
def test_a_damaged_account_begins_anew_with_a_warning(workdir, clock, caplog, damage):
    call(workdir, clock, 0, 3)
    (workdir / "goodput.json").write_text(damage(kept(workdir)))
    call(workdir, clock, 3, 5)
    assert caplog.text.count("goodput.json cannot be read (") == 1 and "begins anew" in caplog.text
    assert kept(workdir)["calls"] == 1 and kept(workdir)["seconds"]["step"] == 4


def test_in_a_bucket_the_account_is_written_once_a_minute_at_saves_and_at_the_end(
    workdir, clock, monkeypatch
):
    written = []
    monkeypatch.setattr(goodput, "is_remote", lambda path: True)
    monkeypatch.setattr(goodput, "write_text", lambda path, text: written.append(json.loads(text)["step"]))
    call(workdir, clock, 0, 50, save_at=(45,))
    assert written == [0, 29, 45, 50]


def test_an_account_that_cannot_be_written_is_a_warning(workdir, clock, caplog):
    call(workdir / "gone", clock, 0, 1)
    assert "goodput.json could not be written" in caplog.text


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or not shutil.which("ps"), reason="/proc and ps are not there"
)
def test_a_command_counts_from_the_start_of_its_process():
    known = subprocess.run(["ps", "-o", "etimes=", "-p", str(os.getpid())], capture_output=True, text=True)
    goodput.count_from_process_start()
    first, second = Account(), Account()
    assert (
        int(known.stdout) - 1
        <= first._spent.seconds["start"] + counted(first)["start"]
        <= int(known.stdout) + 5
    )
    assert counted(second)["start"] < 1, "the next run in the process begins by itself"
    assert goodput._process_began == []


def test_the_file_the_metrics_and_the_line_at_the_end_agree(workdir, monkeypatch, caplog):
    monkeypatch.setattr("pretrain.reports.metric_writer.EventWriter", lambda folder: None)
    caplog.set_level("INFO")
    begin, stage, noted = time.monotonic(), Counting(workdir), Account.dispatched
    dispatch, steps = stage.dispatch, []
    monkeypatch.setattr(
        Account, "dispatched", lambda account, metrics: (steps.append(metrics), noted(account, metrics))
    )

    def fail(state, batch, flags):
        if batch.number == 6:
            raise ArithmeticError("killed")
        state, sums = dispatch(state, batch, flags)
        bad = [float(batch.number == 2), 0.0]  # of two runs of a population
        return state, {**sums, NONFINITE: jnp.array(bad)}

    stage.dispatch = fail
    with pytest.raises(ArithmeticError):
        loop(stage)
    first = kept(workdir)
    assert first["step"] == 4, "step 5 was made, and was to be logged with step 6"
    assert "goodput" not in caplog.text
    loop(Counting(workdir))
    assert [float(step["loss_sum"]) for step in steps] == [1, 2, 3, 4, 5, 4, 5, 6]
    assert "goodput" not in [thread.name for thread in threading.enumerate()]
    took = time.monotonic() - begin
    found = kept(workdir)
    assert (found["calls"], found["step"], list(found["marks"])) == (2, 6, ["2", "3", "6"])
    total, spent = sum(found["seconds"].values()), found["seconds"]
    assert sum(first["seconds"].values()) < total <= took
    assert (
        spent["lost"] > 0
        and spent["step"] > 0
        and all(spent[name] > 0 for name in ("restore", "save", "skipped"))
    )
    assert found["goodput"] == pytest.approx(spent["step"] / total, abs=1e-3)
    said = re.search(r"goodput ([\d.]+)% of ", caplog.text)
    assert said and float(said[1]) == pytest.approx(100 * found["goodput"], abs=1)
    logged = [
        line["train/goodput"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line
    ]
    assert len(logged) == 6 and all(0 < value < 1 for value in logged)


def test_the_line_of_a_log_has_the_goodput_where_there_is_room():
    console = Console(file=io.StringIO(), width=80)
    values = {
        "train/loss": 1.0,
        "train/goodput": 0.914,
        "train/tokens_per_second": 123_400.0,
        "train/mfu": 0.384,
    }
    with Progress(10, console=console) as progress:
        progress.log(1, values)
        progress.log(2, values | {"train/accuracy": 0.5})
        progress.log(3, values | {"train/loss": 123_456_789_012.0, "train/accuracy": 0.5})
        progress.log(4, values | {"train/padding": 0.124})
        progress.log(5, values | {"train/padding": 0.004})
    one, two, three, four, five = console.file.getvalue().splitlines()
    assert one == "step  1/10  loss 1.000  123.4k tok/s  mfu 38%  eta ?  goodput 91%"
    assert two.endswith("  eta ?  goodput 91%") and len(two) <= 80
    assert three.endswith("  eta ?")
    assert four.endswith("  eta ?  padding 12%  goodput 91%") and five.endswith("  eta ?  goodput 91%")
