"""Embeddings: the loss of sentence-transformers, a run from pairs to its folder, and vectors of texts."""

import csv
import gzip
import json
import random
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from etils import epath

from base.errors import UserError
from base.schema import as_dict, build
from data.labelled.own_pairs import RANKING_METRICS, SIMILARITY_METRICS
from data.labelled.tasks import Task
from finetune import evaluate, export_onnx
from finetune.classifier.embedder import load_embedder
from finetune.embed import Vectors, main, read_texts, written_rows
from finetune.job import assemble
from finetune.kinds import EMBEDDING
from finetune.onnx_embedder import OnnxEmbedder
from finetune.population.early_stopping import choosing_metric
from finetune.population.train_step import logits_of, vectors_in_parts
from finetune.predict import main as predict
from finetune.results.final_outputs import finish, finished
from finetune.results.own_metrics import with_own_metrics
from finetune.texts.text_encoding import TextEncoder
from finetune.train import train
from finetune.unused_fields import unused_fields
from tests.finetune.tiny_task import tiny_finetune, write_model
from tests.tiny import WORDS

TEXTS = ["the cat sees a dog", "", "a river " * 30, "horse", "the old tree and the young child here"]


@pytest.fixture(autouse=True)
def _no_log_handlers(monkeypatch: pytest.MonkeyPatch):
    """A handler would outlive the test whose stderr it writes to."""
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)


@pytest.fixture(scope="module")
def library():
    """sentence-transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("sentence_transformers")


# ---- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [2, 3])
def test_the_loss_and_its_gradient_are_those_of_sentence_transformers(library, texts: int):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    drawn = np.random.default_rng(texts).normal(size=(5, texts, 7)).astype(np.float32)
    given = torch.tensor(drawn, requires_grad=True)
    expected = MultipleNegativesRankingLoss(None, scale=20.0).compute_loss_from_embeddings(
        list(given.unbind(1)), None
    )
    expected.backward()

    def loss(vectors: jax.Array) -> jax.Array:
        unit = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        return jnp.mean(EMBEDDING.losses(unit / 0.05**0.5, jnp.zeros(5)))

    found, gradient = jax.value_and_grad(loss)(drawn)
    assert float(found) == pytest.approx(expected.item(), abs=1e-5)
    np.testing.assert_allclose(gradient, given.grad.numpy(), atol=1e-5)


def test_rows_that_only_fill_a_batch_are_no_negatives():
    drawn = np.random.default_rng(0).normal(size=(6, 3, 7)).astype(np.float32)
    filled = np.concatenate([drawn, drawn[-1:], drawn[-1:]])
    weights = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
    losses = EMBEDDING.losses_in_batch(jnp.asarray(filled), jnp.zeros(8), jnp.asarray(weights))
    np.testing.assert_allclose(losses[:6], EMBEDDING.losses(jnp.asarray(drawn), jnp.zeros(6)), rtol=1e-6)
    np.testing.assert_array_equal(
        EMBEDDING.right(jnp.asarray(filled), None)[:6], EMBEDDING.right(jnp.asarray(drawn), None)
    )


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path):
    write_model(tmp_path, layers=1, dropout=0.0)
    start, _ = load_embedder(str(tmp_path / "model"), temperature=0.05)
    draw = np.random.default_rng(0)
    tokens = draw.integers(5, 300, (8, 3, 12)).astype(np.int32)
    segments = (np.arange(12) < draw.integers(2, 13, (8, 3, 1))).astype(np.int32)
    batch = {"tokens": tokens, "segments": segments, "token_types": np.zeros_like(tokens)}
    weights, key = jnp.array([1.0] * 5 + [0.0] + [1.0] * 2), jax.random.key(0)

    def loss(params: dict, parts: int) -> jax.Array:
        vectors = (
            logits_of(start.classifier, params, batch, None)
            if parts == 1
            else vectors_in_parts(start.classifier, params, batch, key, parts)
        )
        return jnp.sum(EMBEDDING.losses_in_batch(vectors, jnp.zeros(8), weights) * weights)

    both = jax.jit(lambda params: [jax.value_and_grad(loss)(params, parts) for parts in (1, 4)])
    with jax.default_matmul_precision("highest"):
        (whole, of_whole), (parts, of_parts) = both(start.params)
    assert float(whole) == pytest.approx(float(parts), abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), of_whole, of_parts)


# ---- a run -------------------------------------------------------------------------------------------------------


def write_pairs(path: Path, count: int, seed: int, *, scores: bool = False, negatives: bool = False) -> None:
    """Write pairs that have words in common: four of them, or with scores from none to four."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["first", "second", *(["score"] if scores else []), *(["no"] if negatives else [])])
        for index in range(count):
            words = draw.sample(WORDS, 12)
            common = index % 5 if scores else 4
            second = [*words[:common], *words[6 : 10 - common]]
            more = [[str(common)]] if scores else []
            more += [[" ".join(draw.sample(WORDS, 4))]] if negatives else []
            writer.writerow([" ".join(words[:6]), " ".join(second), *(each[0] for each in more)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """A finished run of two seeds in two micro-batches, its folder and its results."""
    folder = tmp_path_factory.mktemp("embedding")
    write_model(folder, layers=1)
    write_pairs(folder / "train.csv", 60, 0, negatives=True)
    write_pairs(folder / "dev.csv", 21, 1, scores=True)
    write_pairs(folder / "test.csv", 9, 2)
    config = tiny_finetune(
        folder,
        kind="embedding",
        seeds=2,
        epochs=3,
        grad_accum=2,
        max_length=24,
        lengths=[24],
        optimizer={"learning_rate": 1e-2},
        data={
            "train": str(folder / "train.csv"),
            "validation": str(folder / "dev.csv"),
            "test": str(folder / "test.csv"),
            "text": "first",
            "text_pair": "second",
            "negative": "no",
        },
    )
    workdir = epath.Path(folder / "run")
    found = finish(train(config, workdir), workdir)
    return config, folder, found


def test_every_run_of_the_population_learns_and_the_workdir_has_all_of_it(run):
    config, folder, found = run
    assert found["metric"] == "spearman" and found["kind"] == "similarity"
    assert len(found["runs"]) == 2 and all(each["metrics"]["spearman"] > 0.5 for each in found["runs"])
    losses = [
        json.loads(line)["train/loss"]
        for line in (folder / "run/metrics.jsonl").read_text().splitlines()
        if "train/loss" in line
    ]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    answers = (folder / "run/predictions/test.tsv").read_text().splitlines()
    assert (
        answers[0] == "cosine" and len(answers) == 10 and all(-1 <= float(each) <= 1 for each in answers[1:])
    )
    assert found["look"][0].startswith("pair 1, first text: ")
    card = (folder / "run/model/README.md").read_text()
    assert "library_name: sentence-transformers" in card and "pipeline_tag: sentence-similarity" in card
    assert "spearman_cosine" in card and "norm 1. Fine-tuned from" in card
    assert (folder / "run/report.html").exists() and (folder / "run/predictions.png").exists()
    assert finished(config, epath.Path(folder / "run")) is not None


def test_sentence_transformers_gives_our_vectors(run, library):
    folder = run[1]
    ours = Vectors(str(folder / "run"), batch=8)(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = library.SentenceTransformer(str(folder / "run/model"), device="cpu")
        theirs = model.encode(TEXTS)
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    assert model.max_seq_length == 24
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_onnxruntime_gives_our_vectors_and_hidden_states(run, tmp_path: Path):
    import onnx

    folder = run[1]
    assert export_onnx.main(["export_onnx", f"--model={folder / 'run'}", f"--out={tmp_path}"]) == 0
    vectors = Vectors(str(folder / "run"), batch=8)
    job = assemble(run[0])
    encoded = job.evaluations[0].encoded
    assert isinstance(job.encoder, TextEncoder) and encoded.texts == 2
    found = OnnxEmbedder(tmp_path, lengths=(24,), batch=8)(encoded)
    examples = job.data.evaluations["validation"]
    np.testing.assert_allclose(found[:, :32], vectors(examples.first), atol=1e-5)
    np.testing.assert_allclose(found[:, 32:], vectors(examples.second), atol=1e-5)
    graph = onnx.load(tmp_path / "model.onnx").graph
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert axes == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "last_hidden_state": ["batch", "sequence", 32],
        "sentence_embedding": ["batch", 32],
    }


def test_a_run_starts_from_an_embedder_and_a_frozen_encoder_is_refused(run):
    config, folder, _ = run
    again = build(type(config), {**as_dict(config), "init_from": str(folder / "run")})
    first, second = assemble(config), assemble(again)
    assert jax.tree.structure(first.params) == jax.tree.structure(second.params)
    assert (second.classifier.head_config.pooling, second.classifier.temperature) == ("mean", 0.05)
    other = {"embedding": {"pooling": "cls", "temperature": 0.1}}
    changed = assemble(build(type(config), {**as_dict(config), **other})).classifier
    assert (changed.head_config.pooling, changed.temperature) == ("cls", 0.1)
    with pytest.raises(UserError, match=r"^config\.freeze='encoder' trains the head alone, but .* has none"):
        assemble(build(type(config), {**as_dict(config), "freeze": "encoder"}))


def test_fields_of_classes_have_no_effect(run):
    unused = [each for each in unused_fields(run[0]) if "kind" in each.by]
    for field in ("data.regression", "data.label_names", "label_smoothing", "data.pieces"):
        assert any(each.covers(field) for each in unused)
    assert any(each.covers("data.label") for each in unused_fields(run[0]))  # there are no positive_labels


def test_finetune_evaluate_gives_the_scores_of_the_run_and_of_any_encoder(run, tmp_path: Path):
    _, folder, found = run
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'compilation_cache': ''})\n"
    )
    columns = ["--config.data.text=first", "--config.data.text_pair=second", "--config.data.source=files"]
    line = [f"--config={recipe}", "--config.kind=embedding", *columns, "--config.eval.batch=8"]
    scores = {}
    for model in ("run", "model"):
        given = [f"--model={folder}/{model}", f"--config.data.validation={folder}/dev.csv"]
        assert evaluate.main(["evaluate", *given, *line, f"--out={tmp_path}/scores.json"]) == 0
        scores[model] = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    best = found["runs"][found["best_run"]]["metrics"]
    assert scores["run"] == {
        name: pytest.approx(best[name], abs=1e-5) for name in ("pearson", "spearman", "loss")
    }
    assert scores["model"]["spearman"] < scores["run"]["spearman"]
    with pytest.raises(UserError, match=r"^config\.inference='onnx': .* set config\.inference='jax'$"):
        evaluate.main(["evaluate", *given, *line, "--config.inference=onnx"])


# ---- vectors of texts --------------------------------------------------------------------------------------------


def test_the_command_writes_a_row_for_each_text_in_their_order(run, tmp_path: Path, capsys):
    folder = run[1]
    with gzip.open(tmp_path / "texts.txt.gz", "wt") as file:
        file.write("\n".join(TEXTS * 5) + "\n")
    line = ["embed", f"--model={folder}/run", "--compilation_cache=", "--batch=8", f"--out={tmp_path}/v.npy"]
    assert main([*line, f"--text={tmp_path}/texts.txt.gz"]) == 0
    assert capsys.readouterr().out == f"25 vectors of 32 numbers: {tmp_path}/v.npy\n"
    found = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert found.dtype == np.float32 and found.shape == (25, 32)
    np.testing.assert_allclose(found[5:10], found[:5], atol=1e-6)
    np.testing.assert_allclose(found[:5], Vectors(f"{folder}/run", batch=8)(TEXTS), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert [each.name for each in tmp_path.iterdir() if "unfinished" in each.name] == []


def test_any_encoder_has_vectors_by_the_pooling_that_is_given(run):
    model = run[1] / "model"
    theirs = transformers.AutoModel.from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    with torch.no_grad():
        hidden = theirs(**tokenizer([TEXTS[0]], return_tensors="pt")).last_hidden_state[0].numpy()
    for pooling, expected in (("auto", hidden.mean(axis=0)), ("cls", hidden[0])):
        found = Vectors(str(model), pooling=pooling, max_length=16, batch=8)([TEXTS[0]])[0]
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_rows_come_in_parts_and_a_failure_leaves_no_file(tmp_path: Path):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    with written_rows(epath.Path(tmp_path / "v.npy"), 3) as write:
        write(rows[:1])
        write(rows[1:])
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), rows)
    with (
        pytest.raises(UserError, match="half way"),
        written_rows(epath.Path(tmp_path / "w.npy"), 3) as write,
    ):
        write(rows)
        raise UserError("half way")
    assert [each.name for each in tmp_path.iterdir()] == ["v.npy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=v.npy"], r"^no --model given"),
        (["--model=m"], r"^no --out given"),
        (["--model=m", "--out=v.npy", "--batch=0"], r"^--batch=0 should be 1 or more"),
        (["--model=m", "--out=v.csv"], r"^--out=v\.csv should end in \.npy"),
        (["--model=m", "--out=gs://b/v.npy"], r"^--out=gs://b/v\.npy should be a local file"),
        (["--model=m", "--out=v.npy", "--text={}/a.csv"], r"a\.csv is a table; set --text_column"),
        (
            ["--model=m", "--out=v.npy", "--text={}/a.txt", "--text_column=x"],
            r"^--text_column=x needs a table",
        ),
        (["--model=m", "--out=v.npy", "--text={}/a.csv", "--text_column=x"], "no field 'x'.*--text_column"),
        (["--model=m", "--out=v.npy", "--text={}/empty.txt"], "there are no texts"),
        (["--model=m", "--out=v.npy", "--text={}/bad.txt"], r"bad\.txt line 1: invalid UTF-8"),
        (
            ["--model={}/none", "--out=v.npy", "--text={}/a.txt"],
            r"/none.: there is no such folder; set it to a workdir",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=message) as error:
        main(["embed", "--compilation_cache=", *(each.format(tmp_path) for each in arguments)])
    assert "\n" not in str(error.value) and not (tmp_path / "v.npy").exists()


def test_texts_of_tables_are_their_column(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"t": "one"}\n{"t": "two\\nlines"}\n')
    assert list(read_texts(str(tmp_path / "a.jsonl"), "t")) == ["one", "two\nlines"]


def test_metrics_of_the_users_own_are_refused_for_vectors():
    with pytest.raises(UserError, match=r"compute_metrics is for classes, scores and words"):
        with_own_metrics(None, EMBEDDING, lambda predictions, labels: {}, np.zeros(2), None)


def test_metrics_are_those_of_the_evaluation_set_which_a_mistake_names():
    pairs = Task("", "files pairs.csv", ("a", "b"), (), RANKING_METRICS, "ndcg_at_10", kind="embedding")
    with pytest.raises(
        UserError, match=r"'spearman' is not a metric of dev\.csv; it has .*, loss; pairs with scores "
    ):
        choosing_metric("spearman", pairs, "files dev.csv")
    scored = replace(pairs, metrics=SIMILARITY_METRICS, chooses="spearman", kind="similarity")
    with pytest.raises(
        UserError, match=r"'mrr' is not .*dev\.csv; it has .*; pairs without scores have recall_at_1"
    ):
        choosing_metric("mrr", scored, "files dev.csv")
    assert choosing_metric("pearson", scored, "files dev.csv") == "pearson"


def test_vectors_make_the_folder_that_they_are_written_to(tmp_path: Path):
    with written_rows(epath.Path(tmp_path / "new" / "v.npy"), 2) as write:
        write(np.ones((1, 2), np.float32))
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["v.npy"]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"^--out=.*/file/v\.npy cannot be written: [A-Z][a-z ]+$"),
        written_rows(epath.Path(tmp_path / "file" / "v.npy"), 2),
    ):
        pass


def test_an_embedder_labels_nothing(run):
    with pytest.raises(
        UserError, match=r"is a RobertaModel, which gives vectors and no labels: .* finetune\.embed "
    ):
        predict(["predict", f"--model={run[1]}/run", "a text"])
