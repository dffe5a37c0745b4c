"""Config files, overrides, and errors as a user meets them."""

import ast
import dataclasses
import signal
import subprocess
import sys
import textwrap

import pytest
from absl import flags

from base import command_line
from base.command_line import parse, python, run
from base.errors import UserError
from base.schema import differences, field
from base.storage import write_out
from data.config import DataConfig, FilterConfig, SourceConfig
from pretrain.config import PretrainConfig

FILE = """
import ml_collections

def get_config(size="64"):
    config = ml_collections.ConfigDict()
    config.steps = 100
    config.schedule = {"warmup_steps": config.get_ref("steps") // 10}
    config.model = {"hidden_size": int(size)}
    config.phases = [{"steps": 5}, {"steps": 7, "seq_len": 256}]
    return config
"""


def define(values):
    flags.DEFINE_string("workdir", "", "the run's folder", flag_values=values)


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(textwrap.dedent(FILE))
    return path


def parsed(config_file, *arguments):
    return parse(PretrainConfig, ["program", f"--config={config_file}", *arguments], define)[0]


def test_a_field_that_the_file_does_not_mention_can_be_overridden(config_file):
    config = parsed(config_file, "--config.optimizer.beta1=0.5", "--config.epochs=3", "--config.model.remat")
    assert (config.optimizer.beta1, config.epochs, config.model.remat) == (0.5, 3, "full")


def test_references_follow_an_override(config_file):
    assert parsed(config_file).schedule.warmup_steps == 10
    assert parsed(config_file, "--config.steps=500").schedule.warmup_steps == 50


def test_an_argument_goes_to_get_config(config_file):
    assert parsed(f"{config_file}:128").model.hidden_size == 128


@pytest.mark.parametrize("given", ["[]", "[0.1, 0.2]", "(0.3,)"])
def test_a_list_of_a_recipe_is_overridden_value_by_value(tmp_path, given):
    @dataclasses.dataclass(frozen=True)
    class Rates:
        rates: tuple[float, ...] = field((), "learning rates")

    file = tmp_path / "recipe.py"
    file.write_text(
        "import ml_collections\n"
        f"def get_config():\n    return ml_collections.ConfigDict({{'rates': {given}}})\n"
    )
    arguments = ["program", f"--config={file}"]
    assert parse(Rates, arguments, lambda values: None)[0].rates == tuple(ast.literal_eval(given))
    arguments += ["--config.rates=1e-4", "--config.rates=2"]
    assert parse(Rates, arguments, lambda values: None)[0].rates == (1e-4, 2.0)


def test_a_phase_is_overridden_by_its_index(config_file):
    assert [phase.steps for phase in parsed(config_file, "--config.phases[1].steps=9").phases] == [5, 9]


def test_the_phases_of_a_recipe_can_be_left_out(config_file):
    config = parsed(config_file, "--config.phases=()", "--config.steps=9")
    assert (config.phases, config.steps) == ((), 9)


def test_a_field_that_a_phase_does_not_mention_can_be_overridden(config_file):
    first, second = parsed(
        config_file, "--config.phases[0].seq_len=64", "--config.phases[1].data.window=3"
    ).phases
    assert (first.steps, first.seq_len, first.grad_accum, first.data) == (5, 64, None, None)
    assert (second.steps, second.seq_len, second.data) == (7, 256, DataConfig(window=3))


def test_a_field_of_a_member_of_a_mix_can_be_overridden(config_file):
    mix = "    config.data = {'source': 'mix', 'mix': [{'source': 'files', 'path': 'a'}, {'source': 'pydoc'}]}\n"
    config_file.write_text(config_file.read_text().replace("    return", f"{mix}    return"))
    members = (SourceConfig(source="files", path="a"), SourceConfig(source="pydoc"))
    assert parsed(config_file).data.mix == members
    changed = parsed(
        config_file, "--config.data.mix[0].text_field=body", "--config.data.mix[1].filters.min_chars=3"
    )
    assert changed.data.mix == (
        SourceConfig(source="files", path="a", text_field="body"),
        SourceConfig(source="pydoc", filters=FilterConfig(min_chars=3)),
    )


def test_an_optional_group_is_made_by_an_override_of_its_fields(config_file):
    assert parsed(config_file).data.eval_source is None
    config = parsed(
        config_file, "--config.data.eval_source.source=files", "--config.data.eval_source.path=held.txt"
    )
    assert (config.data.eval_source.source, config.data.eval_source.path) == ("files", "held.txt")


def test_flags_of_the_command_are_parsed(config_file):
    values = parse(PretrainConfig, ["program", "--workdir", "runs/a", "--config", str(config_file)], define)[
        1
    ]
    assert values.workdir == "runs/a"


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("--config.stepz=3", "config.stepz is not a field; did you mean 'steps'?"),
        (
            "--config.model.hiden_size=3",
            "config.model.hiden_size is not a field; did you mean 'hidden_size'?",
        ),
        ("--config.steps=abc", "config.steps='abc' should be a whole number"),
        ("--config.steps=1.5", "config.steps='1.5' should be a whole number"),
        ("--config.epochs=1e3", "config.epochs='1e3' should be a whole number"),
        ("--config.optimizer.beta1=much", "config.optimizer.beta1='much' should be a number"),
        ("--config.masking.whole_word=maybe", "config.masking.whole_word='maybe' should be true or false"),
        ("--config.phases[1].steps=abc", "config.phases[1].steps='abc' should be a whole number"),
        (
            "--config.phases[7].steps=1",
            "config.phases[7].steps: the list has 2 members, counted from [0]",
        ),
        ("--config.phases[1].stepz=1", "config.phases[1].stepz is not a field; did you mean 'steps'?"),
        ("--config.phases=3", "all members can be left out: --config.phases=()"),
        (
            "--config.optimizer.name=sgd",
            "config.optimizer.name='sgd' is not one of 'adamw', 'stable_adamw', 'lamb', 'adafactor'",
        ),
        ("--config.steps.x=3", "config.steps has no fields of its own"),
        ("--workdri=x", "--workdri is not a flag; did you mean --workdir?"),
        (
            "--learning_rate=1",
            "--learning_rate is not a flag; did you mean --config.optimizer.learning_rate?",
        ),
        (
            "--fp16",
            "--fp16 is not a flag; did you mean --config.dtype=bfloat16?",
        ),
        ("steps=3", "unexpected argument 'steps=3'; overrides are written --config.field=value"),
    ],
)
def test_mistakes_are_one_line(config_file, argument, part):
    with pytest.raises(UserError) as caught:
        parsed(config_file, argument)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("def get_config():\n    return 3", "returned int, not an ml_collections ConfigDict"),
        ("x = 3", "bad.py has no function get_config()"),
        ("get_config = 3", "bad.py has no function get_config()"),
        ("def get_config():\n    return 1 / 0", "bad.py failed in line 2: ZeroDivisionError"),
        (
            "import nowhere_at_all",
            "bad.py failed in line 1: ModuleNotFoundError: No module named 'nowhere_at_all'",
        ),
        ("x = 1\ndef get_config(:", "bad.py is not Python: invalid syntax (bad.py, line 2)"),
        (
            "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'stps': 1})",
            "config.stps is not a field; did you mean 'steps'?",
        ),
        (
            "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'model': 1})",
            "config.model=1 should be a group of fields",
        ),
    ],
)
def test_bad_config_files_are_one_line(tmp_path, content, part):
    path = tmp_path / "bad.py"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        parsed(path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.py"):
        parsed(tmp_path / "nowhere.py")
    with pytest.raises(UserError, match=r"a config is a Python file \(\.py\) with a function get_config"):
        parsed(tmp_path)
    with pytest.raises(UserError, match="no --config given"):
        parse(PretrainConfig, ["program"], define)


def test_a_user_error_is_printed_without_a_traceback(capsys):
    def main(argv):
        raise UserError("the batch is too large; set config.global_batch")

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: the batch is too large; set config.global_batch\n"


def test_a_printed_command_starts_the_same_python(tmp_path, monkeypatch):
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    monkeypatch.setattr("sys.executable", str(own))
    monkeypatch.setenv("PATH", str(own.parent))
    assert python() == "python"
    monkeypatch.setenv("PATH", "/nowhere")
    assert python() == str(own)
    monkeypatch.chdir(tmp_path)
    assert python() == ".venv/bin/python"


def test_differences_are_listed_by_path():
    saved = {"a": {"b": 1, "c": 2}, "d": [{"e": 1}]}
    current = {"a": {"b": 1, "c": 3}, "d": [{"e": 2}, {"e": 3}]}
    assert differences(saved, current) == {"a.c": (2, 3), "d[0].e": (1, 2), "d[1].e": (None, 3)}


def test_what_a_flag_asks_for_is_written_in_a_folder_that_is_made(tmp_path):
    write_out(str(tmp_path / "new" / "deep" / "x.json"), "{}\n", "--out")
    assert (tmp_path / "new" / "deep" / "x.json").read_text() == "{}\n"


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        write_out(f"{tmp_path}/file/x.json", "{}", "--json")
    assert str(error.value) == f"--json={tmp_path}/file/x.json cannot be written: Not a directory"


def test_ctrl_c_is_a_word_and_a_status(monkeypatch, capsys):
    def main(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run(main)
    assert (end.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_a_closed_pipe_ends_a_command_without_a_word():
    script = "from base.command_line import run; run(lambda argv: print('x' * 100_000))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("/home/data/unmask/pretrain/__main__.py", "pretrain"),
        ("/home/data/unmask/pretrain/plan/__main__.py", "pretrain.plan"),
        ("/srv/finetune/evaluate.py", "finetune.evaluate"),
    ],
)
def test_the_help_names_the_command_as_it_is_started(program, module):
    assert command_line._module(program) == module
