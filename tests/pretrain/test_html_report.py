"""The report of runs: what it shows, that no text in it becomes markup, that it needs no network, what it costs."""

import io
import json
import logging
import os
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from base.formatting import visible
from base.schema import as_dict
from pretrain.fill_mask import Candidate
from pretrain.report import charts
from pretrain.report.__main__ import main
from pretrain.report.facts import corpus, read_run
from pretrain.report.html import text
from pretrain.report.pages import keep_examples, report, sources, write_report
from pretrain.report.sections import part
from pretrain.report.thread import ReportThread
from tests.hostile import NAMES, ORDERS
from tests.tiny import tiny_config

SPENT = {
    "seconds": dict.fromkeys(
        ("step", "start", "restore", "compile", "data", "evaluation", "save", "lost", "skipped", "other"), 1.0
    ),
    "down": 0.0, "calls": 2, "begin": 0, "step": 40, "marks": {}, "written": 1.0,
}  # fmt: skip


def write_run(folder, *, steps=40, name="", **config):
    """The files of a run that has been trained for 40 steps."""
    place = folder / (name or "run")
    (place / "checkpoints" / "40" / "run").mkdir(parents=True)
    (place / "tokenizer").mkdir()
    lines = []
    for step in range(1, steps + 1):
        train = {
            "loss": 7.0 - 0.01 * step,
            "accuracy": 0.001 * step,
            "tokens_per_second": 2000.0,
            "step_seconds": 0.5,
        }
        lines.append({"step": step, **{f"train/{key}": value for key, value in train.items()}})
        if step % 10 == 0:
            held_out = {
                "loss": 6.9 - 0.01 * step,
                "accuracy": 0.1,
                "perplexity": 800.0,
                "frequency_loss": 6.8,
            }
            lines.append({"step": step, **{f"eval/{key}": value for key, value in held_out.items()}})
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = as_dict(tiny_config("corpus.txt", steps=steps, **config))
    (place / "config.json").write_text(json.dumps(values))
    counts = {"documents": 60, "held_out": 5, "dropped": {"min_chars": 3, "<b>bold</b>": 1}}
    state = {"config": values, "step": 40, "data": {"0": {"0": {"counts": counts}, "1": {"counts": counts}}}}
    (place / "checkpoints" / "40" / "run" / "metadata").write_text(json.dumps(state))
    (place / "goodput.json").write_text(json.dumps(SPENT))
    memory = {"params": 2**20, "optimizer": 2**21, "temporary": 2**22, "limit": None}
    start = {"devices": "8 x cpu", "mesh": {"data": 8}, "parameters": 12345, "memory": memory}
    (place / "start.json").write_text(json.dumps(start))
    return epath.Path(place)


def parsed(page):
    """The page as a strict parser of XML reads it."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def words(page):
    return " ".join(" ".join(parsed(page).itertext()).split())


def test_a_run_has_its_figures_curves_config_data_time_and_memory(tmp_path):
    run = write_run(tmp_path, optimizer={"learning_rate": 3e-4})
    page = report([run])
    said = words(page)
    assert "run: step 40, not finished" in said
    assert "held-out loss 6.5000 best 6.5000 at 40" in said  # a figure a row
    assert "tokens 10.2k" in said  # 40 steps of 8 rows of 32 tokens
    assert "optimizer.learning_rate 0.0003 0.01" not in said and "optimizer.learning_rate 0.0003" in said
    assert "run 120 10 <b>bold</b>: 2; min_chars: 6" in said  # streams are added up
    assert "evaluation 1s, 10.0%" in said and "8 x cpu data=8 1.0 MiB 2.0 MiB 4.0 MiB -" in said
    titles = [caption.text for caption in parsed(page).iter("{http://www.w3.org/1999/xhtml}figcaption")]
    assert titles.count("Loss (nats a prediction)") == 3  # against steps, tokens and hours


def test_examples_show_what_fills_a_blank(tmp_path):
    place = write_run(tmp_path)
    guesses = [[[Candidate("house", 0.5), Candidate("<i>tree</i>", 0.25)]]]
    keep_examples(place, ["the old <mask> stands"], ["house"], guesses)
    assert "the old <mask> stands house house 50.0%; <i>tree</i> 25.0%" in words(report([place]))


def test_runs_are_compared_in_the_fields_that_differ(tmp_path):
    places = [write_run(tmp_path, name=name, seed=seed) for name, seed in (("a", 0), ("b", 7))]
    said = words(report(places))
    assert "2 runs" in said and "config. a b seed 0 7 fields that all runs share" in said


def test_axes_place_steps(tmp_path):
    run = read_run(write_run(tmp_path))
    assert run.tokens([0, 10, 40]) == [0, 2560, 10240]
    assert run.seconds([0, 10, 40]) == [0, 5, 20]


def test_lengths_and_bytes_are_those_of_held_out_documents(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    place = write_run(tmp_path)
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2, "ab": 3, "cde": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    tokenizer.save(str(place / "tokenizer" / "tokenizer.json"))
    rows = np.array([[0, 3, 4, 1, 4, 1, 2, 2], [0, 3, 1, 0, 4, 4, 1, 2]], np.int32)
    segments = np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 2, 2, 2, 2, 0]], np.int32)
    buffer = io.BytesIO()
    np.savez(buffer, tokens=rows, segments=segments, positions=rows)
    (place / "heldout_0.npz").write_bytes(buffer.getvalue())
    found = corpus(read_run(place))
    assert sorted(found.lengths) == [1, 1, 2, 2]
    assert found.bytes_per_token == (len("ab cde") + len("cde") + len("ab") + len("cde cde")) / 6


@pytest.mark.parametrize("names", [NAMES, ORDERS], ids=["names", "orders"])
def test_no_text_becomes_markup(tmp_path, names):
    place = write_run(tmp_path)
    values = as_dict(tiny_config("x"))
    values["data"]["path"] = "|".join(names)
    values["phases"] = []
    (place / "config.json").write_text(json.dumps(values))
    start = {"devices": "\n".join(names), "memory": {}, "mesh": dict.fromkeys(names, 2), "parameters": 1}
    (place / "start.json").write_text(json.dumps(start))
    before, page = report([write_run(tmp_path, name="plain")]), report([place])
    kinds = [[element.tag for element in parsed(each).iter()] for each in (before, page)]
    assert set(kinds[1]) == set(kinds[0])
    shown = "".join(parsed(page).itertext())
    assert all(visible(name) in shown for name in names if name.strip() and "\r" not in name)


def test_a_page_has_no_script_and_asks_for_nothing(tmp_path):
    page = report([write_run(tmp_path)])
    assert "<script" not in page and "default-src 'none'" in page
    addresses = re.findall(r"(?:https?:)?//[\w.]+", page)
    assert set(addresses) == {"http://www.w3.org"}  # the names of XHTML and SVG
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_an_error(tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    place = write_run(tmp_path)
    write_report(place)
    # A frame has the width of a phone, which a window may not have; the title tells what of the page does not fit.
    probe = "const page = this.contentDocument.documentElement; document.title = page.scrollWidth - page.clientWidth"
    style = f"width:{width}px; height:900px"
    frame = f'<iframe src="run/report.html" style="{style}" onload="{probe}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><html><body>{frame}</body></html>")
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--dump-dom",
    ]
    flags += [
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=2000",
    ]
    ran = subprocess.run(
        [browser, *flags, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "CONSOLE" not in ran.stderr
    assert "<title>0</title>" in ran.stdout


def test_the_command_writes_a_file_and_says_where(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = [str(write_run(tmp_path, name=name)) for name in ("a", "b")]
    assert main(["report", places[0]]) == 0
    assert main(["report", *places]) == 0
    assert (tmp_path / "a" / "report.html").exists() and (tmp_path / "report.html").exists()
    assert capsys.readouterr().out.splitlines() == [f"report: {places[0]}/report.html", "report: report.html"]
    for arguments, said in (([], "no WORKDIR given"), ([str(tmp_path / "none")], "does not exist")):
        with pytest.raises(UserError, match=said):
            main(["report", *arguments])


def test_of_a_long_run_some_lines_are_read_and_all_evaluations(tmp_path, monkeypatch):
    place = write_run(tmp_path)
    monkeypatch.setattr("pretrain.report.facts.MOST_LINES", 8)
    run = read_run(place)
    assert run.series("eval/loss")[0] == [10, 20, 30, 40]
    assert 5 <= len(run.series("train/loss")[0]) <= 8 and run.step == 40


def test_damaged_files_only_leave_out_their_part(tmp_path):
    place = write_run(tmp_path)
    for name in ("config.json", "start.json", "checkpoints/40/run/metadata"):
        (place / name).write_text("{")
    (place / "heldout_0.npz").write_bytes(b"PK")
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "train/lo')
    said = words(report([place]))
    assert "held-out loss 6.5000" in said and "Memory" not in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("start.json", {"parameters": "x", "memory": {"params": "y"}, "mesh": [1]}),
        ("config.json", {"data": {"mix": [1]}, "phases": [1]}),
        ("checkpoints/40/run/metadata", {"config": [1], "data": {"0": [1]}}),
        ("examples.json", {"examples": [1]}),
    ],
)
def test_a_file_with_odd_contents_only_leaves_out_its_part(tmp_path, name, content):
    place = write_run(tmp_path)
    (place / name).write_text(json.dumps(content))
    said = words(report([place]))
    assert "held-out loss 6.5000" in said and "Loss (nats a prediction)" in said
    assert "A part is left out, since a file that it shows is damaged" in said


def test_a_run_whose_metrics_are_not_in_their_file_yet_is_reported_later(tmp_path, caplog):
    """The first evaluation of a run in a bucket comes before the first upload of its metrics."""
    place = epath.Path(tmp_path / "run")
    place.mkdir()
    thread = ReportThread(lambda: write_report(place))
    thread.write()
    thread._last.result()
    place.rmdir()
    write_run(tmp_path)
    thread.write(last=True)
    assert (place / "report.html").exists() and not caplog.records


def test_a_report_that_fails_is_tried_again_at_the_end_and_no_step_waits(caplog):
    calls = []

    def fail():
        calls.append(1)
        raise OSError("no room")

    thread = ReportThread(fail)
    with caplog.at_level(logging.WARNING):
        thread.write()
        thread._last.result()
        thread.write()
        assert len(calls) == 1
        thread.write(last=True)
    said = [record.message.split(":")[0] for record in caplog.records]
    assert said == ["report.html could not be written"] * len(calls) and len(calls) == 2


def test_reports_do_not_pile_up():
    calls = []

    def slow():
        calls.append(1)
        time.sleep(0.05)

    thread = ReportThread(slow)
    for _ in range(20):
        thread.write()
    thread.write(last=True)
    thread.close()
    assert len(calls) == 2  # the first, and the last


def test_ticks_are_round():
    assert charts.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(5.93, 6.49) == pytest.approx([6.0, 6.2, 6.4])
    assert charts.ticks(3, 3) == [3]


def test_hyperparameters_have_places_from_0_to_1():
    assert charts.scale([1e-5, 1e-4, 1e-3]) == pytest.approx({1e-5: 0, 1e-4: 0.5, 1e-3: 1})
    assert charts.scale([8, 16, 32]) == pytest.approx({8: 0, 16: 1 / 3, 32: 1})
    assert charts.scale(["b", "a"]) == {"a": 0, "b": 1}


def test_long_curves_are_thinned():
    curve = charts.Curve("c", range(10_000), [float(x) for x in range(10_000)], "red")
    points = re.search(r'points="([^"]*)"', charts.line_chart("t", [curve], "x"))[1].split()
    assert len(points) == charts.MOST_POINTS


def test_escapes():
    assert text("<a href='x'>&\x1b[2J") == "&lt;a href=&#x27;x&#x27;&gt;&amp;\\x1b[2J"


def test_a_prepared_corpus_shows_what_it_reads_and_no_number_of_held_out_documents(tmp_path):
    run = write_run(
        tmp_path, data={"source": "prepared", "path": "corpus", "text_field": "body", "window": 1}
    )
    assert sources(read_run(run).config) == [("prepared", "path=corpus")]
    said = words(report([run]))
    assert "prepared path=corpus" in said and "run 120 in a file <b>bold</b>: 2" in said
    assert sources({"data": {"source": "files", "path": "a", "text_field": "body", "split": "x"}}) == [
        ("files", "path=a, text_field=body")
    ]


def test_a_part_that_fails_is_in_the_log_with_its_place(caplog):
    assert "A part is left out" in part(lambda: {}["a"])
    assert "a part of the report is left out: KeyError: 'a' (test_html_report.py line" in caplog.text
