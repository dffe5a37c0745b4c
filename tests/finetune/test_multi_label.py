"""Any number of classes of an example: the loss as PyTorch has it, the threshold, and a run to the files it leaves."""

import json
import random
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from etils import epath

from base.errors import UserError
from finetune.classifier.finetuned_model import find_model
from finetune.job import assemble
from finetune.kinds import MULTI_LABEL
from finetune.kinds.multi_label import best_threshold
from finetune.predict import main as predict
from finetune.results.final_outputs import finish
from finetune.train import train
from tests.finetune.tiny_task import ANIMALS, tiny_finetune, write_model
from tests.tiny import WORDS


def test_the_loss_is_pytorchs():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3)), rng.integers(0, 2, (5, 3))
    theirs = torch.nn.BCEWithLogitsLoss(reduction="none")(
        torch.tensor(logits), torch.tensor(labels, dtype=torch.float64)
    ).mean(1)
    ours = MULTI_LABEL.losses(jnp.asarray(logits), jnp.asarray(labels, jnp.float32))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)
    assert MULTI_LABEL.mean_loss(logits, labels) == pytest.approx(theirs.mean().item())


def test_the_accuracy_of_training_is_that_of_evaluations():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 3)), rng.integers(0, 2, (40, 3))
    found = MULTI_LABEL.scores(("accuracy",), ("a", "b", "c"), logits, labels, threshold=0.5)
    assert float(jnp.mean(MULTI_LABEL.right(jnp.asarray(logits), jnp.asarray(labels)))) == pytest.approx(
        found["accuracy"]
    )


def test_the_threshold_is_half_way_below_the_last_probability_that_is_worth_taking():
    shares = np.array([[0.9, 0.6], [0.4, 0.2], [0.4, 0.1]])
    right = np.array([[True, True], [True, False], [False, False]])
    # F1 of the first 1, 2, 4, 5, 6: 1/2, 4/5, 6/7, 6/8, 6/9; the two 0.4 are taken together or not at all
    assert best_threshold(shares, right) == pytest.approx(0.3)
    assert best_threshold(shares, np.zeros_like(right)) == 0.5


def test_scores_are_those_of_the_threshold():
    logits = np.log(np.array([[9.0, 1.5], [2 / 3, 0.25], [2 / 3, 1 / 9]]))
    labels = np.array([[1, 1], [1, 0], [0, 0]], np.float32)
    metrics = ("accuracy", "f1_macro", "f1_micro")
    found = MULTI_LABEL.scores(metrics, ("a", "b"), logits, labels)
    assert found["threshold"] == pytest.approx(0.3)
    assert found["f1_micro"] == pytest.approx(6 / 7) and found["f1_macro"] == pytest.approx((4 / 5 + 1) / 2)
    assert found["accuracy"] == pytest.approx(2 / 3)
    at_half = MULTI_LABEL.scores(metrics, ("a", "b"), logits, labels, threshold=0.5)
    assert at_half["f1_micro"] == pytest.approx(4 / 5)


def write_lists(path: Path, count: int, seed: int = 0) -> Path:
    """Write sentences with the animals that they name as their labels, in any number."""
    draw = random.Random(seed)
    plain = [word for word in WORDS if word not in ANIMALS]
    with path.open("w") as file:
        for _ in range(count):
            animals = draw.sample(("cat", "dog"), draw.randint(0, 2))
            words = draw.choices(plain, k=draw.randint(1, 4)) + animals
            draw.shuffle(words)
            file.write(json.dumps({"sentence": " ".join(words), "label": animals}) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """A finished run: its config, its folder and its results."""
    folder = tmp_path_factory.mktemp("multi_label")
    write_model(folder, layers=1)
    for seed, (name, count) in enumerate({"train": 160, "validation": 21, "test": 5}.items()):
        write_lists(folder / f"{name}.jsonl", count, seed)
    config = tiny_finetune(
        folder,
        epochs=4,
        max_length=16,
        lengths=[16],
        optimizer={"learning_rate": 1e-2},
        data={name: str(folder / f"{name}.jsonl") for name in ("train", "validation", "test")},
    )
    workdir = epath.Path(folder / "run")
    return config, folder, finish(train(config, workdir), workdir)


def test_every_class_of_an_example_is_learned(run):
    _, folder, found = run
    metrics = found["runs"][0]["metrics"]
    assert found["metric"] == "f1_micro" and metrics["f1_micro"] > 0.7 and 0 < metrics["threshold"] < 1
    assert found["tests"]["test"]["threshold"] == metrics["threshold"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "run/model")
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "cat", 1: "dog"}
    assert find_model(str(folder / "run")).facts.threshold == metrics["threshold"]


def test_answers_have_the_classes_above_the_threshold(run, tmp_path: Path):
    _, folder, found = run
    texts = ["the cat sees a dog", "a river", "dog", "the child sees cat"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    line = ["predict", f"--model={folder}/run", f"--file={tmp_path}/texts.txt", "--compilation_cache="]
    assert predict([*line, f"--out={tmp_path}/out.tsv"]) == 0
    header, *rows = (row.split("\t") for row in (tmp_path / "out.tsv").read_text().splitlines())
    assert header == ["labels", "probabilities", "text"] and [row[2] for row in rows] == texts
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "run/model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "run/model")
    for labels, shares, text in rows:
        with torch.no_grad():
            theirs = torch.sigmoid(model(**tokenizer(text, return_tensors="pt")).logits[0]).tolist()
        chosen = [index for index in range(2) if theirs[index] >= found["runs"][0]["metrics"]["threshold"]]
        assert labels == "|".join(("cat", "dog")[index] for index in chosen)
        assert shares == "|".join(f"{theirs[index]:.4f}" for index in chosen)


def test_smoothing_is_refused(run):
    config, folder, _ = run
    changed = tiny_finetune(folder, label_smoothing=0.1, data=dict(vars(config.data)))
    with pytest.raises(
        UserError, match=r"label_smoothing=0\.1 spreads a share of one class over all, but an example"
    ):
        assemble(changed)
