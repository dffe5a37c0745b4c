"""Questions and answers: the network as transformers has it, and a run from SQuAD's file to what it leaves."""

import dataclasses
import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from etils import epath

import unmask
from base.errors import UserError
from finetune import evaluate
from finetune.classifier.finetuned_model import encoder_of, find_model
from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
from finetune.job import assemble
from finetune.kinds import QUESTIONS
from finetune.onnx import OnnxClassifier, export_onnx
from finetune.predict import main as predict
from finetune.results.final_outputs import finish, finished
from finetune.train import train
from finetune.unused_fields import unused_fields
from tests.finetune.reference_models import CASES, inputs, pairs_of_texts, random_model
from tests.finetune.tiny_task import ANIMALS, tiny_finetune, write_model
from tests.tiny import WORDS

WITHOUT = ("eurobert", "eurobert_mean", "nomic_bert")
"""Cases of families that transformers has no class for."""
TARGETS = np.array([[3, 5], [0, 0], [7, 11]], np.int32)


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT])
def test_logits_are_those_of_transformers_in_both_directions(case: str, tmp_path: Path):
    theirs = random_model(case, tmp_path / "theirs", task="QuestionAnswering", labels=2)
    start = load_encoder_for_classification(str(tmp_path / "theirs"), (), kind=QUESTIONS)
    assert not start.fresh_head
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    inside = batch["segments"] > 0
    with jax.default_matmul_precision("highest"), torch.no_grad():
        logits = np.asarray(jax.jit(start.classifier.logits)(start.params, **batch))
        found = theirs(**inputs(theirs, batch))
        expected = torch.stack([found.start_logits, found.end_logits], -1).numpy()
        np.testing.assert_allclose(logits[inside], expected[inside], atol=1e-4)
        assert (logits[~inside] == -1e9).all()  # padding is no answer
        save_classifier(tmp_path / "ours", start.classifier, start.params, start.config, ())
        loaded, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
            tmp_path / "ours", attn_implementation="eager", output_loading_info=True
        )
        assert {name: each for name, each in report.items() if each} == {}
        again = loaded.eval()(**inputs(loaded, batch)).start_logits.numpy()
    assert type(loaded) is type(theirs) and loaded.config.num_labels == 2
    np.testing.assert_allclose(again, expected[..., 0], atol=1e-6)


@pytest.mark.parametrize("case", ["bert", "roberta", "modernbert"])
def test_loss_and_gradients_are_those_of_transformers(case: str, tmp_path: Path):
    theirs = random_model(case, tmp_path, task="QuestionAnswering", labels=2)
    start = load_encoder_for_classification(str(tmp_path), (), kind=QUESTIONS)
    batch = pairs_of_texts(start.classifier.token_types, padded=False)
    positions = {"start_positions": TARGETS[:, 0], "end_positions": TARGETS[:, 1]}
    given = {name: torch.tensor(array).long() for name, array in positions.items()}
    expected = theirs(**inputs(theirs, batch), **given).loss
    expected.backward()

    def loss_of(params):
        return jnp.mean(QUESTIONS.losses(start.classifier.logits(params, **batch), jnp.asarray(TARGETS)))

    with jax.default_matmul_precision("highest"):
        loss, gradients = jax.jit(jax.value_and_grad(loss_of))(start.params)
    assert float(loss) == pytest.approx(expected.item(), abs=1e-5)
    named = dict(theirs.named_parameters())
    for tensor in start.classifier.tensors():
        if (there := named[tensor.name].grad) is not None:
            np.testing.assert_allclose(tensor.of(gradients), there.numpy(), atol=1e-4, err_msg=tensor.name)


@pytest.mark.parametrize("case", ["eurobert", "nomic_bert"])
def test_a_family_without_a_class_is_refused(case: str, tmp_path: Path):
    random_model(case, tmp_path)
    with pytest.raises(
        UserError, match=r"has no (EuroBert|NomicBert)ForQuestionAnswering in transformers.*another"
    ):
        load_encoder_for_classification(str(tmp_path), (), kind=QUESTIONS)


def test_a_head_of_texts_is_no_head_of_questions_and_dropout_is_where_transformers_has_it(tmp_path: Path):
    for case, rate in (("bert", 0.0), ("modernbert", 0.3), ("distilbert", 0.3)):
        random_model(case, tmp_path / case, labels=2)
        start = load_encoder_for_classification(
            str(tmp_path / case), (), kind=QUESTIONS, overrides={"classifier_dropout": 0.3}
        )
        assert start.fresh_head == {"out"} and start.classifier.head_config.dropout == rate


# ---- a run -------------------------------------------------------------------------------------------------------


def articles(count: int, seed: int, *, lacking: bool = True) -> list[dict]:
    """Contexts that name one animal, and the words around it; some are longer than the rows of the run."""
    draw = random.Random(seed)
    plain = [word for word in WORDS if word not in ANIMALS]
    paragraphs = []
    for number in range(count):
        words = draw.choices(plain, k=draw.randint(4, 60 if number % 4 == 0 else 14))
        place, lacks = draw.randrange(len(words)), lacking and number % 5 == 4
        if not lacks:
            words[place] = draw.choice(ANIMALS)
        start = sum(len(word) + 1 for word in words[:place])
        answers = [] if lacks else [{"text": words[place], "answer_start": start}]
        asked = {
            "id": f"q{seed}-{number}",
            "question": "which animal?",
            "answers": answers,
            "is_impossible": lacks,
        }
        paragraphs.append({"context": " ".join(words), "qas": [asked]})
    return [{"title": "animals", "paragraphs": paragraphs}]


def write_squad(path: Path, count: int, seed: int, **more) -> Path:
    path.write_text(json.dumps({"version": "v2.0", "data": articles(count, seed, **more)}))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """A finished run of two seeds, its folder and its results."""
    folder = tmp_path_factory.mktemp("questions")
    write_model(folder, layers=1)
    write_squad(folder / "train.json", 120, 0)
    write_squad(folder / "dev.json", 25, 1)
    write_squad(folder / "test.json", 15, 2)
    config = tiny_finetune(
        folder,
        kind="questions",
        seeds=2,
        epochs=8,
        global_batch=16,
        max_length=40,
        lengths=[40],
        optimizer={"learning_rate": 1e-2},
        eval={"batch": 16, "every": 30},
        data={name: str(folder / f"{file}.json") for name, file in SETS.items()},
    )
    workdir = epath.Path(folder / "run")
    found = finish(train(config, workdir), workdir)
    return config, folder, found


SETS = {"train": "train", "validation": "dev", "test": "test"}


def test_every_run_of_the_population_learns_and_the_workdir_has_all_of_it(run):
    config, folder, found = run
    assert found["metric"] == "f1" and found["kind"] == "questions" and len(found["runs"]) == 2
    for each in found["runs"]:
        assert each["metrics"]["f1"] > 0.5  # no answer to any question has 0.2
        assert each["metrics"]["exact_match"] <= each["metrics"]["f1"]
    assert set(found["tests"]["test"]) == {"exact_match", "f1", "f1_has_answer", "f1_no_answer", "loss"}
    answers = json.loads((folder / "run/predictions/test.json").read_text())
    assert list(answers) == [f"q2-{number}" for number in range(15)]
    assert sum(answers[f"q2-{number}"] in ANIMALS for number in range(15) if number % 5 < 4) > 4
    facts = json.loads((folder / "run/model/finetune.json").read_text())
    assert facts == {"texts": 2, "max_length": 40, "stride": 13, "longest_answer": 30, "no_answer": 0.0}
    assert any(line.startswith("questions: 120, without an answer 24") for line in found["look"])
    card = (folder / "run/model/README.md").read_text()
    assert "pipeline_tag: question-answering" in card and "AutoModelForQuestionAnswering" in card
    report = json.loads((folder / "run/report.json").read_text())
    assert report["examples"] and report["examples"][0]["text"] == "which animal?"
    assert (
        "nearness" in (folder / "run/report.html").read_text() and (folder / "run/predictions.png").exists()
    )
    assert finished(config, epath.Path(folder / "run")) is not None


def test_the_model_is_opened_by_transformers_with_the_same_answer(run, tmp_path: Path, capsys):
    folder = run[1]
    out = tmp_path / "predictions.json"
    arguments = ["predict", f"--model={folder}/run", "--compilation_cache="]
    assert predict([*arguments, f"--file={folder}/test.json", f"--out={out}"]) == 0
    assert out.read_text() == (folder / "run/predictions/test.json").read_text()

    question, context = "which animal?", "the old house sees a horse near the river"
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 7, "question": question, "context": context}) + "\n")
    assert predict([*arguments, f"--file={tmp_path}/in.jsonl", "--no_answer=1000"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["id"] == 7 and answer["answer"]
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder / "run/model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "run/model")
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets, inside = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids()
    with torch.no_grad():
        found = model(**encoded)
    starts, ends = found.start_logits[0].numpy(), found.end_logits[0].numpy()
    places = [place for place, each in enumerate(inside) if each == 1]
    score, first, last = max((starts[a] + ends[b], a, b) for a in places for b in places if b >= a)
    assert answer["answer"] == context[offsets[first][0] : offsets[last][1]].strip()
    assert answer["margin"] == pytest.approx(float(score - starts[0] - ends[0]), abs=1e-3)

    assert predict([*arguments, f"{question}\t{context}", "--no_answer=-1000"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header == "answer\tmargin\ttext\ttext_pair"
    assert line.split("\t")[0] == "" and line.split("\t")[2:] == [question, context]


def test_the_code_of_the_card_answers(run, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(run[1])
    card = (run[1] / "run/model/README.md").read_text()
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.strip() in "It was written by a poet."


def test_onnxruntime_gives_our_logits_and_answers(run, tmp_path: Path):
    folder = run[1]
    export_onnx(folder / "run/model")
    start = load_encoder_for_classification(str(folder / "run/model"), (), kind=QUESTIONS)
    model = OnnxClassifier(folder / "run/model")
    assert model.labels == 2
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(5, 300, (3, 17)).astype(np.int32), np.ones((3, 17), np.int32)
    positions = np.broadcast_to(np.arange(17, dtype=np.int32), (3, 17))
    expected = jax.jit(start.classifier.logits)(start.params, tokens, mask, positions)
    np.testing.assert_allclose(model.logits(tokens, mask), expected, atol=1e-4)
    out = tmp_path / "predictions.json"
    line = ["predict", f"--model={folder}/run", "--compilation_cache=", "--inference=onnx"]
    assert predict([*line, f"--file={folder}/test.json", f"--out={out}"]) == 0
    assert out.read_text() == (folder / "run/predictions/test.json").read_text()


def test_finetune_evaluate_scores_it_and_a_run_starts_from_its_head(run, tmp_path: Path):
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
        f"--config.data.validation={folder}/dev.json",
        f"--out={tmp_path}/scores.json",
    ]
    assert evaluate.main([*line, "--config.kind=questions"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    best = found["runs"][found["best_run"]]["metrics"]
    assert scores == {name: pytest.approx(best[name], abs=1e-5) for name in scores}
    with pytest.raises(UserError, match=r"answers questions; set config\.kind=questions"):
        evaluate.main([*line, "--config.kind=tokens"])
    again = assemble(dataclasses.replace(config, init_from=str(folder / "run")))
    assert not again.fresh_head and again.encoder.answering.stride == 13


def test_rows_shorter_than_those_of_fine_tuning_have_a_third_in_common(run):
    for length, stride in ((0, 13), (24, 8)):
        model = find_model(str(run[1] / "run"), max_length=length)
        assert encoder_of(model).answering.stride == stride


def test_fields_act_or_have_no_effect(run):
    config = run[0]
    for values, names in (
        ({}, ("data.regression", "data.label_names", "label_smoothing", "data.pieces", "embedding.pooling")),
        ({"kind": "sequence"}, ("questions.stride", "questions.no_answer_threshold")),
    ):
        unused = unused_fields(dataclasses.replace(config, **values))
        assert all(any(each.covers(name) for each in unused) for name in names)
    assert not any(each.covers("questions.stride") for each in unused_fields(config))
    wider = dataclasses.replace(config.questions, stride=16, max_answer_length=2, no_answer_threshold=3.0)
    first, second = assemble(config), assemble(dataclasses.replace(config, questions=wider))
    assert len(second.train) > len(first.train)
    spans = second.evaluations[0].encoded.spans
    assert (spans.longest, spans.no_answer) == (2, 3.0)


def test_metrics_of_the_users_own_get_texts(run):
    seen = []

    def compute_metrics(answers, right):
        seen.append((answers, right))
        return {"length": sum(map(len, answers)) / len(answers)}

    job = assemble(run[0], compute_metrics)
    assert job.data.task.scores[-1] == "length" and job.evaluations[0].encoded.targets is not None
    answers, right = seen[0]
    assert answers[0] == right[0][0] and "" in answers and [] in right


def test_the_api_takes_questions_with_contexts(run):
    model = str(run[1] / "run")
    (found,) = unmask.predict(model, [("which animal?", "the old house sees a horse")])
    assert found.answer in ("", "horse") or found.answer in "the old house sees a horse"
    assert (found.answer == "") == (found.score < 0) and found.labels == ()
    with pytest.raises(
        UserError, match=r"^texts\[0\] has an empty context; it should be a question and its context"
    ):
        unmask.predict(model, [("which animal?", " ")])
    rows = unmask.load_examples(run[0])
    assert {name: len(each) for name, each in rows.items()} == {"train": 120, "validation": 25, "test": 15}
    context, answers = rows["train"][0]["context"], rows["train"][0]["answers"]
    assert context[answers["answer_start"][0] :].startswith(answers["text"][0])
    assert rows["train"][4]["answers"] == {"text": [], "answer_start": []}


def test_mistakes_of_predict_are_one_line(run, tmp_path: Path):
    arguments = ["predict", f"--model={run[1]}/run", "--compilation_cache="]
    (tmp_path / "in.jsonl").write_text('{"question": "Who?"}\n')
    for more, message in (
        (
            [f"--file={tmp_path}/in.jsonl"],
            r"in\.jsonl line 1: missing field .*'context'.*set --text_pair_column",
        ),
        (["Who?"], r"^text 1: a line should be a question, a tab and its context$"),
    ):
        with pytest.raises(UserError, match=message) as error:
            predict([*arguments, *more])
        assert "\n" not in str(error.value)
