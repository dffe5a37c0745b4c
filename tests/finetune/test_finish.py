"""What a finished run leaves; started again, it is left alone, made the same again, or sent to the hub."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from huggingface_hub import ModelCard
from rich.console import Console

from base import schema
from base.errors import UserError
from finetune import __main__ as command
from finetune import evaluate
from finetune.classifier.inference import FACTS_FILE, row_lengths
from finetune.predict import main as predict
from finetune.results import final_outputs as finishing
from finetune.results.final_outputs import finish, finished
from finetune.results.results_file import table
from finetune.resume import changes, check_unchanged
from finetune.train import train
from pretrain.publish import hub_upload
from tests.finetune.tiny_task import tiny_finetune, write_examples
from tests.pretrain.hub_push_stub import Client, PushStub

WRITER = "hf_canaryOfTheTestsWriter"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run that is complete."""
    folder = tmp_path_factory.mktemp("task")
    tiny_finetune(folder)
    test = write_examples(folder / "test.csv", 30, seed=2)
    config = tiny_finetune(folder, epochs=1, seeds=2, data={"test": str(test)})
    config_file = folder / "config.py"
    config_file.write_text(
        "import json\nimport ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict(json.loads({json.dumps(schema.as_dict(config))!r}))\n"
    )
    workdir = epath.Path(folder / "run")
    outcome = train(config, workdir)
    found = finish(outcome, workdir)
    return SimpleNamespace(
        config=config, file=config_file, workdir=workdir, outcome=outcome, found=found, test=test
    )


def contents(workdir: epath.Path) -> dict[str, bytes]:
    """Everything that finishing writes."""
    files = [*workdir.glob("*.*"), *(workdir / "model").iterdir(), *(workdir / "predictions").iterdir()]
    of_training = ("metrics.jsonl", "goodput.json", "start.json", "report.html")
    names = [file for file in files if file.is_file() and file.name not in of_training]
    return {str(file.relative_to(workdir)): file.read_bytes() for file in names}


def start(run: SimpleNamespace, workdir: epath.PathLike, *flags: str) -> int:
    """The command that made the run, again."""
    return command.main(["finetune", f"--config={run.file}", f"--workdir={workdir}", *flags])


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own would outlive the streams that pytest captures."""
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)


def test_finishing_again_writes_the_same(run: SimpleNamespace):
    before = contents(run.workdir)
    written = {"results.json", "report.json", "model/config.json", "model/README.md"}
    assert {*written, "predictions/test.tsv"} <= set(before)
    assert "Examples: largest mistakes first" in (run.workdir / "report.html").read_text()
    for name in ("model.onnx", "model.onnx.data", "model_quantized.onnx"):
        (run.workdir / "model" / name).write_bytes(b"of an earlier model, so that it must go")
    outcome = train(run.config, run.workdir)
    assert outcome.step == run.outcome.step
    assert finish(outcome, run.workdir) == run.found
    assert contents(run.workdir) == before


def test_a_finished_model_is_evaluated_without_training_it(run: SimpleNamespace, tmp_path: Path, capsys):
    best = run.found["runs"][run.found["best_run"]]["metrics"]
    for model in (run.workdir, run.workdir / "model"):
        out = tmp_path / "scores.json"
        assert evaluate.main(["evaluate", f"--config={run.file}", f"--model={model}", f"--out={out}"]) == 0
        found = json.loads(out.read_text())
        assert found["metrics"] == pytest.approx(best, rel=1e-5)
        assert f"{100 * best['accuracy']:.2f}" in capsys.readouterr().out
    own = f"--config.data.validation={run.config.data.validation}"
    evaluate.main(["evaluate", f"--config={run.file}", f"--model={model}", own, "--config.data.train="])
    assert f"{100 * best['accuracy']:.2f}" in capsys.readouterr().out
    with pytest.raises(UserError, match="is for another task: it has the classes animal, none, not good"):
        flags = ["--config.data.label_names=good", "--config.data.label_names=bad"]
        flags += [
            f"--config.data.validation={write_reviews(tmp_path / 'reviews.csv')}",
            "--config.data.train=",
        ]
        evaluate.main(["evaluate", f"--config={run.file}", f"--model={run.workdir}", *flags])


def test_scores_are_not_asked_of_a_model_of_classes(run: SimpleNamespace):
    flags = ["--config.data.regression=true", f"--config.data.validation={run.config.data.validation}"]
    flags += ["--config.data.train=", "--config.data.test="]
    with pytest.raises(
        UserError, match=r"regression=True means scores, but --model=.* animal, none; unset it"
    ):
        evaluate.main(["evaluate", f"--config={run.file}", f"--model={run.workdir}", *flags])


def test_a_number_is_no_class_of_a_model_with_names_unless_it_is_said_which(
    run: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ids = {"none": "1.0", "animal": "0"}
    header, *rows = Path(run.config.data.validation).read_text().splitlines()
    numbered = tmp_path / "numbered.csv"
    lines = [header, *(f"{text},{ids[label]}" for text, label in (row.rsplit(",", 1) for row in rows))]
    numbered.write_text("\n".join(lines) + "\n")
    flags = [f"--config={run.file}", f"--model={run.workdir}", f"--config.data.validation={numbered}"]
    flags += ["--config.data.train=", "--config.data.test="]
    with pytest.raises(
        UserError, match=r"label '1.0' is not one of the classes 'animal', 'none'; correct it, or set "
    ):
        evaluate.main(["evaluate", *flags])
    best = run.found["runs"][run.found["best_run"]]["metrics"]["accuracy"]
    for names, accuracy in ((("ANIMAL", "NONE"), best), (("none", "animal"), 1 - best)):
        said = [f"--config.data.label_names={name}" for name in names]
        assert evaluate.main(["evaluate", *flags, *said]) == 0
        assert f"{100 * accuracy:.2f}" in capsys.readouterr().out


def write_reviews(path: Path) -> Path:
    path.write_text("sentence,label\na fine film,good\na dull one,bad\n")
    return path


def test_own_test_files_are_labelled_by_the_best_model(run: SimpleNamespace, tmp_path: Path):
    assert run.found["predictions"] == ["test.tsv"]
    header, *rows = (run.workdir / "predictions" / "test.tsv").read_text().splitlines()
    assert header == "label\tprobability"
    flags = [
        f"--text={run.test}",
        "--text_column=sentence",
        f"--out={tmp_path / 'out'}",
        "--compilation_cache=",
    ]
    predict(["predict", f"--model={run.workdir}", *flags])
    labelled = [line.split("\t") for line in (tmp_path / "out").read_text().splitlines()[1:]]
    assert [row.split("\t")[0] for row in rows] == [row[0] for row in labelled]
    np.testing.assert_allclose(
        [float(row.split("\t")[1]) for row in rows], [float(row[1]) for row in labelled], atol=1.01e-4
    )
    facts = {"texts": 1, "max_length": run.config.max_length}
    assert json.loads((run.workdir / "model" / FACTS_FILE).read_text()) == facts


def test_a_complete_run_is_shown_and_not_assembled_again(
    run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("it trains"))
    before = contents(run.workdir)
    assert start(run, run.workdir) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"the run in {run.workdir} is complete\n")
    assert "accuracy *" in said and f"model: {run.workdir / 'model'}" in said
    assert contents(run.workdir) == before


def test_a_run_is_complete_for_its_own_config_only(run: SimpleNamespace, tmp_path: Path):
    def changed(**changes: object):
        return schema.build(type(run.config), {**schema.as_dict(run.config), **changes})

    assert finished(run.config, run.workdir) == run.found
    assert finished(changed(log={"every": 7}), run.workdir) == run.found
    assert finished(changed(epochs=2), run.workdir) is None
    assert finished(changed(inference="onnx"), run.workdir) is None
    assert finished(run.config, epath.Path(tmp_path)) is None
    with pytest.raises(UserError, match=r"config.epochs was 1, is 2"):
        train(changed(epochs=2), run.workdir)


def test_a_run_from_before_a_field_goes_on_with_its_default(run: SimpleNamespace):
    saved = json.loads(json.dumps(schema.as_dict(run.config)))
    del saved["data"]["validation_share"]
    check_unchanged(saved, run.config)
    changed = schema.build(type(run.config), {**schema.as_dict(run.config), "epochs": 2})
    with pytest.raises(UserError, match=r"another config: config.epochs was 1, is 2\. "):
        check_unchanged(saved, changed)


@pytest.mark.parametrize(
    ("was", "now", "room", "refused"),
    [
        (8, 0, 64, True),
        (64, 0, 64, False),
        (0, 8, 64, True),
        (128, 0, 512, False),
        (100, 0, 512, True),
        (8, 0, None, False),
        (8, 64, None, True),
    ],
)
def test_a_length_that_is_left_to_the_model_is_compared_as_what_it_comes_to(
    run: SimpleNamespace, was: int, now: int, room: int | None, refused: bool
):
    def of(length: int):
        return schema.build(type(run.config), {**schema.as_dict(run.config), "max_length": length})

    expected = {"max_length": (was, now)} if refused else {}
    assert changes(schema.as_dict(of(was)), of(now), room=room) == expected


def test_a_run_of_a_set_length_is_not_complete_without_it(run: SimpleNamespace):
    unset = schema.build(type(run.config), {**schema.as_dict(run.config), "max_length": 0})
    assert finished(unset, run.workdir) is None


def test_fingerprints_are_computed_once(run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    first = run.outcome.job.fingerprints
    monkeypatch.setattr("finetune.job._fingerprint", lambda encoded: pytest.fail("computed again"))
    assert run.outcome.job.fingerprints == first and set(first) == {"tokenizer", "training examples"}


def test_onnx_is_evaluated_beside_the_model_and_labels_the_test_set(
    run: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    workdir = tmp_path / "run"
    shutil.copytree(run.workdir, workdir)
    test = workdir / "predictions" / "test.tsv"
    by_jax = [line.split("\t") for line in test.read_text().splitlines()]
    test.unlink()
    assert start(run, workdir, "--config.inference=onnx") == 0
    assert (workdir / "model" / "model.onnx").exists()
    found = json.loads((workdir / "results.json").read_text())
    best = found["runs"][found["best_run"]]
    assert 0 < found["onnx"]["largest_difference"] < 1e-4
    assert found["onnx"]["metrics"] == pytest.approx(best["metrics"], abs=1e-5)
    unchanged = set(found) - {"onnx", "config"}
    assert {name: found[name] for name in unchanged} == {name: run.found[name] for name in unchanged}
    by_onnx = [line.split("\t") for line in test.read_text().splitlines()]
    assert [row[0] for row in by_onnx] == [row[0] for row in by_jax]
    assert "logits differ by" in capsys.readouterr().out
    assert "`model.onnx` is the same model" in (workdir / "model" / "README.md").read_text()


def test_onnx_without_its_libraries_is_refused_before_training(
    run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("finetune.onnx.importlib.util.find_spec", lambda name: None)
    config = schema.build(type(run.config), {**schema.as_dict(run.config), "inference": "onnx"})
    with pytest.raises(
        UserError, match=r"config.inference='onnx' needs torch, which is not installed; install"
    ):
        train(config, epath.Path(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"a file system, which --workdir=gs://a/b is not on; set config.inference"
    ):
        train(config, epath.Path("gs://a/b"))


def test_a_test_file_with_labels_is_scored(run: SimpleNamespace, tmp_path: Path):
    assert run.found["test_examples"] == {"test": {"count": 30, "labelled": 30, "origin": "files test.csv"}}
    tested = run.found["tests"]["test"]
    answers = [
        line.split("\t")[0]
        for line in (run.workdir / "predictions" / "test.tsv").read_text().splitlines()[1:]
    ]
    truth = [line.rsplit(",", 1)[1] for line in run.test.read_text().splitlines()[1:]]
    right = sum(answer == label for answer, label in zip(answers, truth, strict=True))
    assert tested["accuracy"] == right / 30
    assert set(tested) == {"matthews", "f1", "accuracy", "loss"}
    assert json.loads((run.workdir / "results.json").read_text())["tests"] == run.found["tests"]
    out = io.StringIO()
    Console(file=out, width=100).print(table(run.found))
    assert f"test accuracy │ {100 * right / 30:.2f} │" in " ".join(out.getvalue().split())
    assert "test: the best model on 30 examples" in " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("max_length", "chosen", "expected"),
    [
        (100, (), (16, 24, 32, 48, 64, 96, 100)),
        (128, (24, 40), (24, 40, 48, 64, 96, 128)),
        (40, (24, 40), (24, 40)),
        (12, (), (12,)),
        (24, (), (16, 24)),
    ],
)
def test_longer_rows_than_a_run_has_seen_have_lengths(
    max_length: int, chosen: tuple[int, ...], expected: tuple[int, ...]
):
    assert row_lengths(max_length, chosen) == expected


@pytest.mark.parametrize(
    ("part", "file"),
    [("picture", "predictions.png"), ("classifier_card", "model/README.md")],
    ids=["picture", "card"],
)
def test_a_picture_or_card_that_fails_costs_nothing_and_is_made_by_the_same_command(
    run: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: str,
    file: str,
):
    workdir = epath.Path(tmp_path / "run")
    shutil.copytree(run.workdir / "checkpoints", workdir / "checkpoints")

    def fail(*_, **__):
        raise ValueError("Expected end of text,\nfound '$'")

    with monkeypatch.context() as patched:
        patched.setattr(finishing, part, SimpleNamespace(card=fail) if part == "classifier_card" else fail)
        assert start(run, workdir) == 0
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        f"{file} could not be written: Expected end of text, found '$'; the model and its results are saved; "
        "run the same command again to have it"
    )
    missing = {file, f"model/{file}"} if part == "picture" else {file}
    whole = contents(run.workdir)
    assert set(contents(workdir)) == set(whole) - missing
    assert start(run, workdir) == 0
    assert contents(workdir).keys() == whole.keys()
    assert contents(workdir)["predictions.png"] == whole["predictions.png"]


def test_a_run_whose_classes_are_mathematics_to_matplotlib_finishes(tmp_path: Path):
    config = tiny_finetune(tmp_path, epochs=1)
    for split in ("train", "validation"):
        file = tmp_path / f"{split}.csv"
        text = file.read_text().replace(",none\n", ",$$\n").replace(",animal\n", ",$\n")
        file.write_text(text.replace("\r", ""))
        assert "$$" in file.read_text()
    workdir = epath.Path(tmp_path / "run")
    finish(train(config, workdir), workdir)
    assert json.loads((workdir / "model" / "config.json").read_text())["id2label"] == {"0": "$", "1": "$$"}
    assert (workdir / "results.json").exists() and (workdir / "predictions.png").exists()


def test_the_card_of_a_finished_run_can_be_given_a_licence(run: SimpleNamespace, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(run.workdir, workdir)
    card = workdir / "model" / "README.md"
    assert "license" not in card.read_text()
    assert start(run, workdir, "--config.card.license=mit", "--config.card.language=nb,en") == 0
    data = ModelCard.load(card).data
    assert (data.license, data.language) == ("mit", ["nb", "en"])
    with pytest.raises(UserError, match=r"config.card.license='MIT' is no identifier of the hub; write"):
        start(run, tmp_path / "other", "--config.card.license=MIT")


def test_a_complete_run_is_pushed_without_training(run: SimpleNamespace, tmp_path: Path):
    before = contents(run.workdir)
    with PushStub({WRITER}, set()) as stub:
        client = Client(stub.url, tmp_path / "home", WRITER, HF_HUB_DISABLE_XET="1")
        done = client.run(
            "-m", "finetune", f"--config={run.file}", f"--workdir={run.workdir}", "--push_to_hub=me/animals"
        )
        assert done.returncode == 0, done.stderr
        assert f"on the hub: {stub.url}/me/animals\n" in done.stdout
        ((repository, message, files),) = stub.commits
        assert (repository, stub.private) == ("me/animals", {"me/animals"})
        assert message.startswith("train.csv: accuracy ")
        assert set(files) == {path.name for path in (run.workdir / "model").iterdir()}
        card = stub.repositories["me/animals"]["README.md"].decode()
        assert 'model="me/animals"' in card, "the folder's own card names the folder"
    assert contents(run.workdir) == before


def test_what_cannot_be_pushed_is_refused_before_training(
    run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("it trains"))
    new = ["finetune", f"--config={run.file}", f"--workdir={tmp_path / 'new'}"]
    with pytest.raises(UserError, match=r"--push_to_hub=animals is not an id on the hub"):
        command.main([*new, "--push_to_hub=animals"])
    with pytest.raises(
        UserError, match=r"--public has no effect without --push_to_hub=USER/NAME, which is not given"
    ):
        command.main([*new, "--public"])
    monkeypatch.setattr(hub_upload, "check", lambda repo_id: None)
    asked = []
    monkeypatch.setattr(
        hub_upload, "push", lambda folder, repo_id, **how: asked.append((folder, repo_id, how)) or "URL"
    )
    assert start(run, run.workdir, "--push_to_hub=me/animals", "--public") == 0
    ((folder, repo_id, how),) = asked
    assert (folder, repo_id, how["private"]) == (run.workdir / "model", "me/animals", False)
