"""The small files of a workdir, damaged: a line is dropped, the file is made again, or one line says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from etils import epath

from base.errors import UserError
from finetune import predict
from finetune.results.final_outputs import finish, finished
from finetune.train import train as finetune
from pretrain import checkpoint, export, fill_mask
from pretrain.reports.metric_writer import read_metrics
from pretrain.train import train
from tests.faults.test_resume import stop_at
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import on_one_device, tiny_config, write_corpus
from tokenizer.load import load
from tokenizer.run_tokenizer import ensure_tokenizer

BAD_LINES = (
    b'{"step": 2, "train/loss": "abc"}',
    b'{"step": 2, "train/loss": [1.0]}',
    b'{"step": 2, "train/loss": 1' + b"0" * 400 + b"}",
    b'{"step": true, "train/loss": 1.0}',
    b'{"step": 1.5}',
    b'{"train/loss": 1.0}',
    b"[1, 2]",
    b"null",
    b"7",
    b"",
    b"[" * 100_000,
    b'{"step": 2, "\xff": 1.0}',
    b'{"step": 2, "trai',
)
"""What is no line of a metrics.jsonl; the last two are a broken byte, and a line that is cut."""
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "broken byte": lambda content: content[: len(content) // 2] + b"\xff" + content[len(content) // 2 :],
    "empty": lambda content: b"",
    "a list": lambda content: b"[1, 2]\n",
    "other keys": lambda content: b'{"step": "x", "a": 1}\n',
    "nested": lambda content: b"[" * 100_000,
}


@pytest.fixture(autouse=True)
def one_device():
    with on_one_device("pretrain.job", "finetune.population.state"):
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of each stage that was stopped after step 4, and the same finished."""
    root = tmp_path_factory.mktemp("runs")
    config, task = configs(root)
    with on_one_device("pretrain.job", "finetune.population.state"):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, 4)
            train(config, epath.Path(root / "stopped"))
            finetune(task, epath.Path(root / "stopped tuning"))
        shutil.copytree(root / "stopped", root / "whole")
        train(config, epath.Path(root / "whole"))
        shutil.copytree(root / "stopped tuning", root / "whole tuning")
        finish(finetune(task, epath.Path(root / "whole tuning")), epath.Path(root / "whole tuning"))
    return root


def configs(root: Path, **changes):
    """The configs of both runs, with changes of theirs."""
    corpus = root / "text.txt"
    if not corpus.exists():
        write_corpus(corpus)
    pretraining = tiny_config(corpus, eval={"every": 4, "steps": 1}, **changes)
    return pretraining, tiny_finetune(root / "task", epochs=1, seeds=2, **changes)


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy of a run, to be damaged."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(runs / name, tmp_path / name))

    return copied


def damage(file: Path, how: str) -> None:
    file.write_bytes(DAMAGES[how](file.read_bytes()))


def add_bad_lines(file: Path) -> None:
    first, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, *(bad + b"\n" for bad in BAD_LINES[:-1]), *others, BAD_LINES[-1]]))


def test_lines_that_are_damaged_are_left_out_with_one_warning(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    good = [{"step": step, "train/loss": 1.0 / step, "eval/loss": None} for step in (1, 2)]
    file.write_text("".join(json.dumps(line) + "\n" for line in good))
    assert read_metrics(file) == good and not caplog.messages
    add_bad_lines(file)
    assert read_metrics(file) == read_metrics(file) == good
    assert caplog.messages == [f"{file}: {len(BAD_LINES)} lines (from 2 on) are damaged and left out"]


@pytest.mark.parametrize("how", ["cut", "nested"])
def test_pretraining_goes_on_with_damaged_files(runs, copy, caplog, how):
    workdir, (config, _) = copy("stopped"), configs(runs)
    add_bad_lines(workdir / "metrics.jsonl")
    for name in ("config.json", "saved.json", "model.json", "heldout_0.npz"):
        damage(workdir / name, how)
    (workdir / "lock.json").write_bytes(DAMAGES[how](b'{"id": "a", "host": "b"}'))
    assert train(config, epath.Path(workdir)).step == 8
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 9))
    for name in ("config.json", "saved.json", "model.json", "finished.json"):
        assert json.loads((workdir / name).read_text()) == json.loads((runs / "whole" / name).read_text())
    assert sum("are damaged and left out" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_tokenizer_is_made_again_by_hand(runs, tmp_path, how):
    """By the same code, and from the same texts, that is; a run of other texts would notice."""
    workdir, (config, _) = epath.Path(tmp_path), configs(runs)
    before = Path(shutil.copytree(runs / "stopped" / "tokenizer", tmp_path / "tokenizer"))
    damage(before / "tokenizer.json", how)

    def made():
        how = {"model_max_length": 64, "progress": False, "resuming": True}
        return ensure_tokenizer(config.tokenizer, config.data, workdir, **how)

    with pytest.raises(
        UserError, match=r"cannot be read: .*; put its files back, or delete that folder and run the"
    ):
        made()
    shutil.rmtree(before)
    assert made().fingerprint() == load(str(runs / "stopped" / "tokenizer")).fingerprint()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_finished_run_makes_its_files_again(runs, copy, how):
    workdir, (config, _) = copy("whole"), configs(runs)
    names = ("config.json", "saved.json", "model.json", "finished.json")
    for name in names:
        damage(workdir / name, how)
    with pytest.raises(
        UserError, match=r"model\.json is missing or damaged; run the command of that run again"
    ):
        export.main(["export", f"--workdir={workdir}", f"--out={workdir}.out"])
    assert not Path(f"{workdir}.out").exists()
    train(config, epath.Path(workdir))
    for name in names[1:]:
        assert json.loads((workdir / name).read_text()) == json.loads((runs / "whole" / name).read_text())
    add_bad_lines(workdir / "metrics.jsonl")
    damage(workdir / "config.json", how)
    assert export.main(["export", f"--workdir={workdir}", f"--out={workdir}.out"]) == 0
    assert "held-out, last" in (Path(f"{workdir}.out") / "README.md").read_text()
    assert fill_mask.main(["fill_mask", f"--workdir={workdir}", "the <mask> cat"]) == 0
    assert checkpoint.main(["checkpoint", "verify", str(workdir)]) == 0


def test_fine_tuning_goes_on_with_damaged_files(runs, copy, caplog):
    workdir, (_, task) = copy("stopped tuning"), configs(runs)
    files = [workdir / "metrics.jsonl", *sorted(workdir.glob("runs/*/metrics.jsonl"))]
    assert len(files) == 3
    for file in files:
        add_bad_lines(file)
    damage(workdir / "saved.json", "cut")
    outcome = finetune(task, epath.Path(workdir))
    for file in files:
        steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
        assert sorted(set(steps)) == list(range(1, outcome.step + 1))
    assert sum("are damaged and left out" in message for message in caplog.messages) == 3


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["results.json", "model/config.json"])
def test_a_finished_fine_tuning_is_not_complete_without_a_file(runs, copy, caplog, name, how):
    workdir, (_, task) = copy("whole tuning"), configs(runs)
    assert finished(task, epath.Path(workdir)) is not None
    damage(workdir / name, how)
    caplog.clear()
    assert finished(task, epath.Path(workdir)) is None
    (message,) = caplog.messages
    assert name in message and "\n" not in message


def test_what_a_finished_fine_tuning_lacks_is_made_again(runs, copy):
    workdir, (_, task) = copy("whole tuning"), configs(runs)
    names = ("results.json", "model/config.json", "model/finetune.json", "finished.json")
    for name in names:
        damage(workdir / name, "cut")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        predict.main(["predict", f"--model={workdir}", "--compilation_cache=", "a cat"])
    finish(finetune(task, epath.Path(workdir)), epath.Path(workdir))
    kept = [json.loads((folder / names[0]).read_text()) for folder in (workdir, runs / "whole tuning")]
    assert kept[0]["runs"] == kept[1]["runs"] and kept[0]["history"] == kept[1]["history"]
    for name in names[1:]:
        assert (workdir / name).read_bytes() == (runs / "whole tuning" / name).read_bytes()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"texts": "x"}', b'{"max_length": -1}', b'{"a": 1}'])
def test_what_is_known_of_a_model_is_checked(copy, content):
    workdir = copy("whole tuning")
    (workdir / "model" / "finetune.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"finetune\.json is damaged: .*; remove it, or export the model again"
    ):
        predict.main(["predict", f"--model={workdir}", "--compilation_cache=", "a cat"])


@pytest.mark.parametrize("change", ["lamb", "adafactor"])
def test_another_optimizer_is_named_as_what_differs(runs, copy, change):
    pretraining, task = configs(runs, optimizer={"name": change})
    message = (
        r"^the optimiser differs from that of checkpoint 4 in .*, and cannot change in a run: "
        rf".*config\.optimizer\.name was 'adamw', is '{change}'.*; put it back, or start in another --workdir$"
    )
    for name, config, run in (("stopped", pretraining, train), ("stopped tuning", task, finetune)):
        workdir = copy(name)
        with pytest.raises(UserError, match=message):
            run(config, epath.Path(workdir), accept_changes=True)
        assert (workdir / "checkpoints" / "4").exists()
