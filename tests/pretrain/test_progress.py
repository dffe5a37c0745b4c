"""What a run prints, in a terminal and elsewhere."""

import io
import logging

from rich.console import Console

from pretrain.reports.progress_line import Progress

VALUES = {
    "train/loss": 10.8213,
    "train/accuracy": 0.1234,
    "train/tokens_per_second": 123_400.0,
    "train/mfu": 0.384,
    "train/data_wait": 0.0,
}


def run(console, steps=3, total=1_000_000):
    with Progress(total, start_step=124_997, console=console) as progress:
        for step in range(124_998, 124_998 + steps):
            progress.update(step, loss=10.8)
        progress.log(125_000, VALUES)
        progress.log(125_000, {"eval/loss": 5.25, "eval/accuracy": 0.2, "eval/perplexity": 190.566})
        progress.message("checkpoint [1] saved")
    return console.file.getvalue()


def test_elsewhere_each_interval_is_one_plain_line_of_80_columns(monkeypatch):
    clock = iter(range(0, 3600, 1))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    text = run(Console(file=io.StringIO(), width=80))
    assert text.splitlines() == [
        "step  125000/1000000  loss 10.821  acc 12.3%  123.4k tok/s  mfu 38%  eta 10d03h",
        "eval after step 125000:  loss 5.25  accuracy 20.0%  perplexity 190.6",
        "checkpoint [1] saved",
    ]
    assert max(map(len, text.splitlines())) <= 80


def test_the_time_that_is_left_knows_no_compilation_and_no_other_phase(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)

    def steps(first, last, seconds):
        for step in range(first, last + 1):
            now[0] += seconds
            progress.update(step, loss=1.0)

    with Progress(1000, console=console) as progress:
        steps(1, 5, 1.0)
        now[0] += 600.0
        progress.leave_out(600.0)
        steps(6, 10, 1.0)
        progress.log(10, {"train/loss": 1.0})
        progress.restart()
        now[0] += 600.0
        steps(11, 20, 2.0)
        progress.log(20, {"train/loss": 1.0})
    assert [line.rpartition("eta ")[2] for line in console.file.getvalue().splitlines()] == [
        "16m30s",
        "32m40s",
    ]


def test_an_unknown_peak_leaves_mfu_out():
    console = Console(file=io.StringIO(), width=80)
    with Progress(10, console=console) as progress:
        progress.log(1, {"train/loss": 1.0, "train/tokens_per_second": 950.0})
    assert console.file.getvalue() == "step  1/10  loss 1.000  950 tok/s  eta ?\n"


def test_a_terminal_has_one_live_line_with_messages_above_it():
    text = run(
        Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, legacy_windows=False)
    )
    assert "\x1b[2K" in text, "the line is redrawn in place"
    assert "checkpoint [1] saved" in text and "eval after step 125000" in text
    assert "acc 12.3%" not in text, "the plain line of an interval would come on top of the live one"
    live = text.split("saved")[-1].strip()
    assert "125000/1000000  loss 10.800" in live and "eta" in live


def test_log_records_scroll_by_above_the_live_line(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        console = Console(
            file=io.StringIO(), width=80, force_terminal=True, color_system=None, legacy_windows=False
        )
        with Progress(10, console=console):
            logging.getLogger("pretrain").warning("a warning in between")
        logging.getLogger("pretrain").warning("a warning afterwards")
    finally:
        logging.getLogger().removeHandler(handler)
    assert "a warning in between" in console.file.getvalue()
    assert terminal.getvalue() == "a warning afterwards\n"
