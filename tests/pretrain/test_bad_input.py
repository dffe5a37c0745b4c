"""What a user gets wrong is one line, before anything is compiled, and nothing is left half-written."""

import json

import pytest

import pretrain.__main__ as command
from base import command_line
from pretrain import train as train_module
from tests.tiny import write_corpus

RECIPE = """
import ml_collections

def get_config():
    config = ml_collections.ConfigDict()
    config.steps = 4
    config.global_batch = 8
    config.seq_len = 32
    config.tokenizer = {{"vocab_size": 300, "min_frequency": 1}}
    config.data = {{"source": "files", "path": {path!r}, "streams": 4, "window": 8, "eval_fraction": 0.1}}
    config.model = {{
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 66,
    }}
    config.schedule = {{"warmup_steps": 1}}
    config.eval = {{"every": 0}}
    config.compilation_cache = ""
    return config
"""


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Run the command with more arguments; returns the one line it prints, having checked that it is one line."""
    corpus = write_corpus(tmp_path / "text.txt")
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(path=str(corpus)))
    workdir = tmp_path / "run"

    def compiled(*arguments):
        raise AssertionError("compiled before the mistake was found")

    monkeypatch.setattr(train_module._PhaseSteps, "compile", compiled)
    # it replaces the handlers of the whole process
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)

    def run(*arguments):
        argv = ["pretrain/__main__.py", f"--config={recipe}", f"--workdir={workdir}", *arguments]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as caught:
            command_line.run(command.main)
        assert caught.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("tokenizer: ")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        if workdir.is_dir():
            assert [path.name for path in workdir.iterdir()] == ["tokenizer"]
        return lines[0]

    run.path = tmp_path
    return run


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config.data.path={dir}/nowhere.txt"], ["nowhere.txt", "config.data.path"]),
        (["--config.data.path={dir}/*.parquet"], ["*.parquet", "config.data.path"]),
        (["--config.data.path={dir}/empty.txt"], ["empty.txt"]),
        (
            ["--config.data.path={dir}/docs.jsonl", "--config.data.text_field=body"],
            ["docs.jsonl", "body", "text"],
        ),
        (
            ["--config.tokenizer.vocab_size=5000"],
            ["config.tokenizer.vocab_size=5000", "set config.tokenizer.vocab_size="],
        ),
        (["--config.data.streams=3"], ["config.global_batch=8", "config.data.streams=3"]),
        (
            ["--config.global_batch=12", "--config.data.streams=4"],
            ["config.global_batch=12", "multiple of 8"],
        ),
        (["--config.mesh.fsdp=3"], ["config.mesh.fsdp=3 does not divide the number of devices, 8"]),
        (
            ["--config.seq_len=128"],
            ["config.seq_len=128", "max_position_embeddings=66", "set that to 130, or config.seq_len to 64"],
        ),
        (
            ["--config.model.num_attention_heads=3"],
            ["config.model.hidden_size=32 should be a multiple of num_attention_heads=3"],
        ),
        (["--config.model.scan_unroll=-1"], ["config.model.scan_unroll=-1 should be 0"]),
        (["--config.model.hidden_dropout_prob=1.0"], ["config.model.hidden_dropout_prob=1.0"]),
        (["--config.schedule.warmup_steps=10"], ["config.schedule.warmup_steps=10"]),
        (["--config.epochs=2"], ["config.steps and config.epochs"]),
        (["--config.init_from={dir}/nothing"], ["nothing"]),
        (["--config.tokenizer.path={dir}/nothing"], ["nothing", "config.tokenizer.path"]),
        (["--config.model.config_file={dir}/model.json"], ["model.json", "vocab_size=100", "300"]),
        (["--config.masking.rate=2"], ["config.masking.rate=2"]),
        (["--config.data.source=oscar"], ["config.data.path"]),
        (["--config.data.eval_fraction=0.000001", "--config.eval.every=2"], ["eval_fraction"]),
        (["--config.data.path={dir}/few.txt", "--config.tokenizer.vocab_size=262"], ["streams"]),
    ],
)
def test_a_mistake_is_one_line_before_compilation(fails, arguments, parts):
    (fails.path / "empty.txt").write_text("")
    (fails.path / "few.txt").write_text("aaa\nbbb\n")
    (fails.path / "docs.jsonl").write_text('{"text": "a house by the river"}\n')
    (fails.path / "model.json").write_text(json.dumps({"model_type": "roberta", "vocab_size": 100}))
    line = fails(*[argument.format(dir=fails.path) for argument in arguments])
    for part in parts:
        assert part in line


def test_a_workdir_that_is_a_file_or_lies_in_one_is_named(fails):
    place = fails.path / "run"
    place.write_text("")
    assert fails() == f"error: --workdir={place} is a file; name a folder"
    assert (
        fails(f"--workdir={place}/below/it")
        == f"error: --workdir={place}/below/it lies in a file; name a folder"
    )
    assert place.read_text() == ""
