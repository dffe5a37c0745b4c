"""Texts from outside reach the terminal through one door, which shows their control characters and obeys none."""

import ast
import io
import logging
import re
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from base import command_line, terminal
from base.errors import UserError
from base.formatting import one_line, visible
from base.set_fields import say
from pretrain.reports.progress_line import Progress
from pretrain.runtime import processes, train_command
from tests.hostile import ORDERS

ROOT = Path(__file__).parents[2]
PACKAGES = ("base", "configs", "data", "finetune", "launch", "pretrain", "tokenizer")
DOORS = {
    "base/terminal.py": "the door",
    "launch/tpu/remote.py": "runs alone on a machine, and writes to its log file",
    "pretrain/runtime/processes.py": "prints lines of its own, and errors on one line",
}
"""Modules that print by themselves."""
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def printers(tree: ast.AST) -> list[str]:
    """What in a module writes to the terminal: print, rich's Console, and writes to the standard streams."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "Console") or re.fullmatch(
                r"sys\.std(out|err)(\.buffer)?\.write(lines)?", called
            ):
                found.append(called)
    return found


def test_a_module_that_prints_is_noticed():
    assert printers(ast.parse("print(1); console.print(2); sys.stdout.buffer.write(b''); Console()")) == [
        "print", "sys.stdout.buffer.write", "Console"
    ]  # fmt: skip


def test_everything_is_printed_through_the_door():
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    found = {str(file.relative_to(ROOT)): printers(ast.parse(file.read_text())) for file in files}
    assert {name: calls for name, calls in found.items() if calls and name not in DOORS} == {}


@pytest.mark.parametrize("text", ORDERS)
def test_a_text_gives_the_terminal_no_order(text, capfd):
    terminal.say(f"a{text}b")
    terminal.say(f"a{text}b", error=True)
    terminal.console().print(f"a{text}b", soft_wrap=True)
    with Progress(2) as progress:
        progress.message(f"a{text}b")
    say(f"a{text}b")
    told = capfd.readouterr()
    escaped = f"a{visible(text)}b"
    assert told.out.count(escaped) + told.err.count(escaped) >= 4
    assert visible(told.out + told.err) == told.out + told.err


@pytest.mark.parametrize("text", ORDERS)
def test_a_table_gives_the_terminal_no_order_where_it_has_colours(text):
    console = terminal.console()
    console.file, console._force_terminal, console._width = io.StringIO(), True, 200
    table = Table(title=text, caption=Text(text, style="bold"))
    table.add_column(text)
    table.add_row(Text(text, style="green"))
    console.print(table)
    shown = STYLE.sub("", console.file.getvalue())
    assert visible(shown) == shown


@pytest.mark.parametrize("text", ORDERS)
def test_an_error_is_one_line_without_orders(text, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])

    def fail(argv):
        raise UserError(f"there is no {text}\nhere")

    for run in (command_line.run, processes.run):
        with pytest.raises(SystemExit) as ended:
            run(fail)
        assert ended.value.code == 2
        assert capfd.readouterr().err == f"error: there is no {one_line(text)}\\nhere\n"


def test_a_log_line_gives_no_order(capfd):
    logger = logging.getLogger()
    before, level = logger.handlers, logger.level
    logger.handlers = []
    try:
        terminal.guard_logs()
        logging.getLogger("x").warning("a %s b", "\x1b[2J\x07\u202e")
        train_command.log_to_stderr()
        logging.getLogger("pretrain.x").warning("a %s b", "\x1b[2J\x07\u202e")
    finally:
        logger.handlers = before
        logger.setLevel(level)
    assert capfd.readouterr().err == 2 * "a \\x1b[2J\\x07\\u202e b\n"


def test_other_programs_get_texts_as_they_are(capfdbinary, monkeypatch):
    text = "a\x1b[2J\u202e\tb\n"
    terminal.pass_on(text)
    assert capfdbinary.readouterr().out == text.encode()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    terminal.pass_on(text)
    assert capfdbinary.readouterr().out == b"a\\x1b[2J\\u202e\tb\n"


def test_letters_of_all_scripts_and_emoji_are_shown_as_they_are():
    text = "é 猫 עברית עربى 🦖 👩‍🚀 नी\tx\ny"
    assert visible(text) == text
    assert one_line("a\u2066b\u2069\r\x85") == "a\\u2066b\\u2069\\r\\x85"
