"""The command line of a launcher: its own arguments, and the command after `--`."""

import pytest

from base.errors import UserError
from launch.launch_command import (
    markers,
    module_of,
    python_of,
    split,
    take_name,
    take_words,
    with_workdir,
    workdir_of,
)

COMMAND = ["python", "-m", "pretrain", "--config=c.py"]


def test_the_command_stands_after_the_first_double_dash():
    assert split(["prog", "NAME", "--flag", "--", "a", "--", "b"]) == (
        ["prog", "NAME", "--flag"],
        ["a", "--", "b"],
    )
    assert split(["prog", "NAME"]) == (["prog", "NAME"], [])


@pytest.mark.parametrize(
    "words", [["python", "-m", "pretrain"], [".venv/bin/python3.11", "x.py"], ["uv", "-m"]]
)
def test_a_command_without_the_double_dash_is_named(words):
    with pytest.raises(UserError, match="write -- before the command to run"):
        split(["prog", "NAME", "--dry-run", *words])


def test_words_stand_first():
    assert take_words(["prog", "run", "big", "--x"], ["COMMAND", "NAME"]) == (["run", "big"], ["prog", "--x"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prog"], "no COMMAND given; write COMMAND NAME first, then the flags"),
        (["prog", "run", "--x"], "no NAME given, found '--x'; write COMMAND NAME first, then the flags"),
    ],
)
def test_a_missing_word_is_named(arguments, message):
    with pytest.raises(UserError) as error:
        take_words(arguments, ["COMMAND", "NAME"])
    assert str(error.value) == message


def test_the_workdir_of_a_command_is_the_last_it_names():
    assert workdir_of([*COMMAND, "--workdir=a", "--workdir", "b c"]) == "b c"
    assert workdir_of([*COMMAND, "--workdir", "a", "-workdir=gs://b/x=1"]) == "gs://b/x=1"
    assert workdir_of([*COMMAND, "--workdirs=a"]) is None
    assert workdir_of([*COMMAND, "--workdir"]) is None


@pytest.mark.parametrize("workdir", ["runs/a\nb", "runs/\x1b[31m", "\t"])
def test_a_workdir_with_a_control_character_is_one_line(workdir):
    for command, given in (([*COMMAND, f"--workdir={workdir}"], ""), (COMMAND, workdir)):
        with pytest.raises(UserError, match="should be a path without control characters") as error:
            with_workdir(command, given, "big")
        assert "\n" not in str(error.value)


def test_the_module_of_a_command():
    assert module_of(COMMAND) == "pretrain"
    assert module_of(["bash", "run.sh"]) is None


def test_the_launch_config_gives_a_workdir_to_a_command_that_names_none():
    assert with_workdir([*COMMAND, "--workdir=a"], "gs://b/{name}", "big") == ([*COMMAND, "--workdir=a"], "a")
    assert with_workdir(COMMAND, "gs://b/{name}", "big") == ([*COMMAND, "--workdir=gs://b/big"], "gs://b/big")


@pytest.mark.parametrize(("command", "reason"), [([], "no command given"), (COMMAND, "names no folder")])
def test_a_command_and_a_workdir_are_needed(command, reason):
    with pytest.raises(UserError, match=reason):
        with_workdir(command, "", "big")


def test_a_name_stands_first_unless_help_is_asked_for():
    assert take_name(["prog", "big", "--x"]) == ("big", ["prog", "--x"])
    assert take_name(["prog", "--help"]) == ("", ["prog", "--help"])


def test_what_a_finished_run_leaves():
    assert markers(COMMAND, "gs://b/big/") == ["gs://b/big/finished.json"]
    assert markers(["python", "-m", "finetune"], "run") == [
        f"run/{name}.json" for name in ("finished", "results", "glue")
    ]
    assert markers(["bash", "run.sh"], "run") == []
    with pytest.raises(UserError, match=r"config\.search is for one machine"):
        markers(["python", "-m", "finetune", "--config.search.trials=3"], "run")


def test_the_python_of_a_command():
    assert python_of([".venv/bin/python3.11", "-m", "pretrain"]) == ".venv/bin/python3.11"
    assert python_of(["bash", "run.sh"]) == "python"
