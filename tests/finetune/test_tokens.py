"""Token classification: the network as transformers has it, and a run from columns to the files that it leaves."""

import dataclasses
import io
import json
import random
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from etils import epath

from base.errors import UserError
from finetune import evaluate
from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
from finetune.job import assemble
from finetune.kinds import TOKENS
from finetune.predict import main as predict
from finetune.results.final_outputs import finish, finished
from finetune.train import train
from tests.finetune.reference_models import CASES, inputs, pairs_of_texts, random_model
from tests.finetune.tiny_task import ANIMALS, tiny_finetune, write_model
from tests.tiny import WORDS

LABELS = ("no", "maybe", "yes")


@pytest.mark.parametrize("case", CASES)
def test_logits_of_tokens_are_those_of_transformers_in_both_directions(case: str, tmp_path: Path):
    theirs = random_model(case, tmp_path / "theirs", task="TokenClassification")
    start = load_encoder_for_classification(str(tmp_path / "theirs"), LABELS, kind=TOKENS)
    assert not start.fresh_head
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    inside = batch["segments"] > 0
    with jax.default_matmul_precision("highest"), torch.no_grad():
        logits = np.asarray(jax.jit(start.classifier.logits)(start.params, **batch))
        expected = theirs(**inputs(theirs, batch)).logits.numpy()
        np.testing.assert_allclose(logits[inside], expected[inside], atol=1e-4)
        save_classifier(tmp_path / "ours", start.classifier, start.params, start.config, LABELS)
        loaded, report = transformers.AutoModelForTokenClassification.from_pretrained(
            tmp_path / "ours", attn_implementation="eager", output_loading_info=True
        )
        assert {name: found for name, found in report.items() if found} == {}
        again = loaded.eval()(**inputs(loaded, batch)).logits.numpy()
    assert type(loaded) is type(theirs) and "problem_type" not in json.loads(
        (tmp_path / "ours" / "config.json").read_text()
    )
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_the_loss_is_pytorchs_mean_over_the_tokens_with_a_label():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 3)).astype(np.float32)
    labels = np.array([[-1, 2, 0, -1], [1, -1, -1, -1]], np.int32)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits).flatten(0, 1), torch.tensor(labels).long().flatten(), ignore_index=-1
    )
    weights = TOKENS.weights(jnp.ones(2), jnp.asarray(labels))
    losses = TOKENS.losses(jnp.asarray(logits), jnp.asarray(labels))
    assert float(weights.sum()) == 3
    np.testing.assert_allclose((losses * weights).sum() / weights.sum(), theirs.numpy(), rtol=1e-6)
    without = TOKENS.weights(jnp.array([1.0, 0.0]), jnp.asarray(labels))  # a row that only fills the batch
    assert float(without.sum()) == 2


def test_a_head_of_texts_is_no_head_of_tokens(tmp_path: Path):
    random_model("roberta", tmp_path)
    assert load_encoder_for_classification(str(tmp_path), LABELS, kind=TOKENS).fresh_head == {"out"}


def write_columns(path: Path, count: int, seed: int = 0, *, tags: bool = True) -> Path:
    """Write sentences with animals, which are entities; some of them are longer than the rows of the run."""
    draw = random.Random(seed)
    plain = [word for word in WORDS if word not in ANIMALS]
    lines = []
    for _ in range(count):
        words = draw.choices([*plain, *ANIMALS, *ANIMALS, *ANIMALS], k=draw.randint(2, 30))
        tags_of = {"horse": "I-ANI", **dict.fromkeys(ANIMALS[:3], "B-ANI")}  # a mixture of IOB1 and IOB2
        named = [(word, "x", tags_of.get(word, "O")) for word in words]
        lines += ["\t".join(each if tags else each[:2]) for each in named] + [""]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """A finished run of two seeds, its folder and its results."""
    folder = tmp_path_factory.mktemp("tokens")
    write_model(folder, layers=1)
    write_columns(folder / "train.conll", 80)
    write_columns(folder / "dev.conll", 21, seed=1)
    write_columns(folder / "test.conll", 9, seed=2)
    config = tiny_finetune(
        folder,
        kind="tokens",
        seeds=2,
        epochs=4,
        max_length=24,
        lengths=[24],
        optimizer={"learning_rate": 1e-2},
        data={
            "train": str(folder / "train.conll"),
            "validation": str(folder / "dev.conll"),
            "test": str(folder / "test.conll"),
            "text": "0",
            "label": "2",
        },
    )
    workdir = epath.Path(folder / "run")
    found = finish(train(config, workdir), workdir)
    return config, folder, found


def test_entities_are_learned_by_every_run_of_the_population(run):
    config, folder, found = run
    assert found["metric"] == "f1" and found["kind"] == "tokens"
    assert len(found["runs"]) == 2
    assert all(each["metrics"]["f1"] > 0.5 for each in found["runs"])  # a guess has less than 0.3
    assert found["tests"]["test"]["f1"] > 0.5 and found["test_examples"]["test"]["labelled"] == 9
    assert found["examples"]["train"]["count"] == 80
    assert finished(config, epath.Path(folder / "run")) is not None


def test_the_model_is_opened_by_transformers_with_the_same_answers(run, tmp_path: Path, capsys):
    _config, folder, _found = run
    out = tmp_path / "out.conll"
    arguments = ["predict", f"--model={folder}/run", "--compilation_cache="]
    assert predict([*arguments, f"--file={folder}/test.conll", f"--out={out}"]) == 0
    assert out.read_text() == (folder / "run/predictions/test.tsv").read_text()
    words = [line.split("\t")[0] for line in (folder / "test.conll").read_text().splitlines()]
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == words  # none is lost

    sentence = ["the", "cat", "sees", "a", "horse"]
    (tmp_path / "in.jsonl").write_text(json.dumps({"tokens": sentence}) + "\n")
    assert predict([*arguments, f"--file={tmp_path}/in.jsonl"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tokens"] == sentence
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder / "run/model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "run/model")
    encoded = tokenizer(" ".join(sentence), return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        told = model(**encoded).logits[0].argmax(-1).tolist()
    begins = np.cumsum([0, *(len(word) + 1 for word in sentence[:-1])]).tolist()
    first = [next(i for i, (a, b) in enumerate(offsets) if a <= begin < b) for begin in begins]
    assert answer["tags"] == [model.config.id2label[told[place]] for place in first]


def test_finetune_evaluate_scores_it_and_starts_a_run_of_the_same_tags(run, tmp_path: Path):
    config, folder, found = run
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'compilation_cache': ''})\n"
    )
    line = [
        "evaluate",
        f"--model={folder}/run",
        f"--config={recipe}",
        "--config.data.source=files",
        f"--config.data.validation={folder}/dev.conll",
        f"--out={tmp_path}/scores.json",
    ]
    assert evaluate.main([*line, "--config.kind=tokens"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    best = found["runs"][found["best_run"]]["metrics"]
    assert scores["f1"] == pytest.approx(best["f1"]) and scores["loss"] == pytest.approx(
        best["loss"], abs=1e-5
    )
    with pytest.raises(UserError, match=r"labels words; set config\.kind=tokens"):
        evaluate.main(line)
    again = assemble(dataclasses.replace(config, init_from=str(folder / "run")))
    assert not again.fresh_head


def test_all_pieces_or_the_first_have_the_label_of_their_word(run):
    config, _folder, _ = run
    counts = {}
    for pieces in ("first", "all"):
        job = assemble(dataclasses.replace(config, data=dataclasses.replace(config.data, pieces=pieces)))
        counts[pieces] = int((job.train.labels >= 0).sum())
    assert counts["first"] == len(job.data.train.labels) < counts["all"]


def test_sentences_without_words_are_answered_and_mistakes_of_the_input_are_one_line(
    run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    arguments = ["predict", f"--model={run[1]}/run", "--compilation_cache="]
    (tmp_path / "in.jsonl").write_text('{"tokens": []}\n')
    assert predict([*arguments, f"--file={tmp_path}/in.jsonl"]) == predict([*arguments, ""]) == 0
    assert capsys.readouterr().out == '{"tokens": [], "tags": []}\n\n'
    with pytest.raises(
        UserError, match=r"^--text_pair_column=b: --model=.* labels words, which have no second"
    ):
        predict([*arguments, f"--file={tmp_path}/in.jsonl", "--text_pair_column=b"])
    stdin = SimpleNamespace(buffer=io.BytesIO(b"a\n\xff\n"), isatty=lambda: True)
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(UserError, match=r"^stdin line 2: invalid UTF-8 .*; save the text as UTF-8$"):
        predict(arguments)
    assert "reading lines from the terminal; Ctrl-D ends them" in capsys.readouterr().err
