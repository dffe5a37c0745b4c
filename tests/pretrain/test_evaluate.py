"""Evaluation of runs, exports and models of the hub on any text, and of continued pretraining at its start."""

import dataclasses
import json

import pytest
from etils import epath

from base.errors import UserError
from pretrain import evaluate as module
from pretrain.models.huggingface import save_pretrained
from pretrain.train import train
from pretrain.trained_network import trained_network
from tests.finetune.tiny_task import write_model
from tests.tiny import on_one_device, tiny_config, write_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two texts, a model of the hub, and a run that goes on from it for two steps."""
    folder = tmp_path_factory.mktemp("evaluate")
    corpus = write_corpus(folder / "text.txt")
    write_corpus(folder / "other.txt", documents=20, seed=1)
    model = write_model(folder)
    config = tiny_config(corpus, steps=2, eval={"every": 1}, checkpoint={"every": 1, "keep": 3})
    config = dataclasses.replace(config, init_from=str(model), model=dataclasses.replace(
        config.model, hidden_size=32, intermediate_size=48), tokenizer=type(config.tokenizer)())  # fmt: skip
    with on_one_device():
        train(config, epath.Path(folder / "run"))
    network = trained_network(epath.Path(folder / "run"))
    save_pretrained(
        epath.Path(folder / "export"),
        network.encoder,
        network.params,
        epath.Path(folder / "run" / "tokenizer"),
    )
    return folder


def scores(place, *words, capsys=None):
    out = place / "out.json"
    with on_one_device("pretrain.evaluate"):
        assert module.main(["pretrain.evaluate", *words, f"--json={out}"]) == 0
    return json.loads(out.read_text())["models"]


def logged(place):
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "eval/loss" in line}


def test_a_run_is_scored_as_its_log_says(place, capsys):
    found = scores(place, str(place / "run"), "--step=1,2")
    for each in found:
        line = logged(place)[int(each["name"].rpartition(" ")[2])]
        for name in ("loss", "accuracy", "perplexity", "frequency_loss"):
            assert each[name] == pytest.approx(line[f"eval/{name}"], rel=1e-5)
    assert "frequencies" in capsys.readouterr().out


def test_a_run_that_may_be_training_is_only_read(place, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*")}
    (few,) = scores(place, str(place / "run"), "--rows=3", "--seq_len=16")
    assert few["rows"] == 3
    monkeypatch.setattr(module, "evaluation_rows", None)  # the run's own rows are those that it has kept
    scores(place, str(place / "run"))
    assert {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*")} == before


def test_a_model_may_be_in_a_folder_whose_name_begins_with_config(place):
    with pytest.raises(UserError, match="configs/none"), on_one_device("pretrain.evaluate"):
        module.main(["pretrain.evaluate", "configs/none", "--text=a"])


def test_continued_pretraining_is_evaluated_at_its_start(place):
    log = logged(place)
    assert sorted(log) == [0, 1, 2]
    # The run's rows and masks, and the weights before the first step.
    (start,) = [
        each for each in scores(place, str(place / "run"), str(place / "model")) if "step" not in each["name"]
    ]
    assert start["loss"] == pytest.approx(log[0]["eval/loss"], rel=1e-5)
    assert log[0]["eval/loss"] != pytest.approx(log[2]["eval/loss"], rel=1e-4)


def test_the_start_is_never_the_best(place):
    assert trained_network(epath.Path(place / "run")).run["best"]["step"] == 2


def test_models_of_one_tokenizer_predict_the_same_tokens_whatever_the_batch(place):
    text = f"--text={place / 'other.txt'}"
    both = scores(place, str(place / "run"), str(place / "export"), text, "--pseudo_perplexity=2")
    alone = scores(place, str(place / "export"), text, "--batch=3")
    assert [each["name"] for each in both] == [f"{place / 'run'} step 2", str(place / "export")]
    for name in ("loss", "accuracy", "frequency_loss"):
        assert both[0][name] == pytest.approx(both[1][name], rel=1e-5)
        assert both[1][name] == pytest.approx(alone[0][name], rel=1e-5)
    assert both[0]["pseudo_perplexity"] == pytest.approx(both[1]["pseudo_perplexity"], rel=1e-5)
    assert both[0]["rows"] == alone[0]["rows"] and both[0]["bytes_per_token"] > 1


def test_all_of_a_text_is_read_unless_a_share_is_asked_for(place):
    fields = [
        "--config.data.source=files",
        f"--config.data.path={place / 'text.txt'}",
        "--config.data.packing=lines",
    ]
    whole = scores(place, str(place / "export"), *fields, "--seq_len=64")
    some = scores(place, str(place / "export"), *fields, "--seq_len=64", "--config.data.eval_fraction=0.1")
    assert whole[0]["rows"] > 4 * some[0]["rows"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no model given"),
        (["{place}/export"], "no text to evaluate on"),
        (["{place}/export", "--step=1", "--text=x"], "--step=1 is for the workdir of a run"),
        (["{place}/run", "--step=7", "--text={place}/text.txt"], "there is no checkpoint of step 7"),
        (["{place}/export", "--text={place}/text.txt", "--seq_len=65"], "takes 64 tokens at most"),
        (["{place}/export", "--text={place}/none.txt"], "none.txt"),
        (["{place}/export", "--text=a", "--config.data.path=b"], "name two texts"),
        (["{place}/export", "--text=a", "--config.data.window=1"], "config.data.window=1 has no effect"),
        (["{place}/export", "--text=a", "--config.data.name=b"], "config.data.name='b' has no effect"),
        (["{place}/export", "--text=a", "--config.steps=1"], "config.steps is not a field"),
        (["{place}/export", "--text=a", "--masking_rate=1"], "--masking_rate=1 should be above 0"),
        (["{place}/export", "--texts=a"], "text"),
        (["{place}/nowhere", "--text=a"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(place, words, said):
    with pytest.raises(UserError, match=said), on_one_device("pretrain.evaluate"):
        module.main(["pretrain.evaluate", *(word.format(place=place) for word in words)])
