"""Command lines without a config: switches, one-line errors, and a help that looks as that of the other commands."""

import pytest

from base.errors import UserError
from base.plain_arguments import Arguments


def parser(**more) -> Arguments:
    made = Arguments(prog="python -m x.y", description="One\nthing.\n\nAnother.", **more)
    made.add_argument("--out", default="", help="the folder")
    made.add_argument("--step", type=int, default=3, help="the step")
    made.add_switch("--overwrite", "replace it")
    made.add_argument("texts", nargs="*", help="texts to read")
    return made


@pytest.mark.parametrize(
    ("words", "on"),
    [
        ([], False),
        (["--overwrite"], True),
        (["--overwrite=true"], True),
        (["--overwrite=False"], False),
        (["--overwrite", "--nooverwrite"], False),
    ],
)
def test_a_switch_is_on_or_off(words: list[str], on: bool):
    assert parser().read(["x", *words]).overwrite is on


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--overwrite=maybe"],
            "argument --overwrite: 'maybe' should be true or false; --help lists the flags",
        ),
        (["--step=x"], "argument --step: invalid int value: 'x'; --help lists the flags"),
        (["--stop=1"], "--stop is not a flag; did you mean --step?"),
        (["--zebra"], "--zebra is not a flag; there are --out, --step, --overwrite"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str):
    with pytest.raises(UserError) as error:
        parser().read(["x", *words])
    assert str(error.value) == message


def test_the_help_is_that_of_commands_with_a_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as done:
        parser().read(["x", "--help"])
    assert not done.value.code
    assert capsys.readouterr().out == (
        "usage: python -m x.y [flags] [TEXTS ...]\n\n"
        "One thing.\n\nAnother.\n\n"
        "words:\n  TEXTS: texts to read\n\n"
        "flags:\n"
        "  -h, --help: show this help message and exit\n"
        "  --out: the folder (default '')\n"
        "  --step: the step (default 3)\n"
        "  --overwrite: replace it (default False)\n"
    )
