"""A text has the ids and the logits that transformers gives it, whatever the tokenizer's files say and wherever."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from etils import epath

from data.labelled.examples import Examples
from finetune.classifier.finetuned_model import encoder_of, find_model, logits_of
from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
from finetune.onnx import export_onnx
from finetune.results.final_outputs import finish
from finetune.texts.encoding import PairEncoder
from finetune.train import train
from tests.finetune.family_tokenizers import CASES, TEXTS, write_tokenizer
from tests.finetune.reference_models import random_model
from tests.finetune.tiny_task import tiny_finetune
from tokenizer.load import load

LENGTH = 16
LABELS = ("no", "maybe", "yes")
# The network of each family is compared by other tests; torch's exporter takes its time.
WITH_ONNX = ("roberta, a space before the text, cut on the left", "bert, cased by its configuration")


def examples(pairs: bool) -> Examples:
    second = list(reversed(TEXTS)) if pairs else None
    return Examples(list(TEXTS), second, None, list(range(len(TEXTS))), "test", False)


def ids_of_transformers(folder: Path, pairs: bool) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = examples(pairs)
    return tokenizer(given.first, given.second, truncation=True, max_length=LENGTH)["input_ids"]


def logits_of_transformers(folder: Path, pairs: bool) -> np.ndarray:
    """Of each example alone, without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    given = examples(pairs)
    rows = []
    for index, first in enumerate(given.first):
        second = [given.second[index]] if given.second else None
        row = tokenizer([first], second, truncation=True, max_length=LENGTH, return_tensors="pt")
        if model.config.model_type in ("distilbert", "modernbert"):
            row.pop("token_type_ids", None)  # they take none
        with torch.no_grad():
            rows.append(model(**row).logits[0].numpy())
    return np.array(rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_auto_tokenizer(name, tmp_path):
    case = CASES[name]
    size = write_tokenizer(tmp_path, case)
    random_model(case.model, tmp_path, vocab_size=size)
    loaded = load(str(tmp_path))
    assert loaded.vocab_size == size
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    loaded.save(saved, model_max_length=LENGTH)
    alone = tmp_path / "alone"  # as a run of pretraining keeps it: without the config.json of a model
    loaded.save(alone)
    for pairs in (False, True):
        encoded = PairEncoder(loaded, max_length=LENGTH, token_types=2)(examples(pairs))
        ours = [row[:length].tolist() for row, length in zip(encoded.tokens, encoded.lengths)]
        assert ours == ids_of_transformers(tmp_path, pairs)
        assert ours == ids_of_transformers(saved, pairs)
        assert ours == ids_of_transformers(alone, pairs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers_from_the_same_folder_and_from_the_one_that_is_saved(name, tmp_path):
    case, given, ours = CASES[name], tmp_path / "given", tmp_path / "ours"
    given.mkdir()
    random_model(case.model, given, vocab_size=write_tokenizer(given, case), num_hidden_layers=1)
    start = load_encoder_for_classification(str(given), LABELS)
    save_classifier(ours, start.classifier, start.params, start.config, LABELS, load(str(given)))
    models = {folder: find_model(str(folder), max_length=LENGTH) for folder in (given, ours)}
    ask = logits_of(models[ours], inference="jax", batch=len(TEXTS))
    if name in WITH_ONNX:
        export_onnx(ours)
        ask_onnx = logits_of(models[ours], inference="onnx", batch=len(TEXTS))
    for pairs in (False, True):
        expected = logits_of_transformers(given, pairs)
        np.testing.assert_allclose(logits_of_transformers(ours, pairs), expected, atol=1e-5, rtol=0)
        for model in models.values():
            found = ask(encoder_of(model)(examples(pairs)))
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        if name in WITH_ONNX:
            found = ask_onnx(encoder_of(models[ours])(examples(pairs)))
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_the_model_of_a_run_scores_in_transformers_what_it_scored_in_the_run(tmp_path):
    case = CASES["bert, cased by its configuration"]
    given = tmp_path / "model"
    given.mkdir()
    size = write_tokenizer(given, case)
    random_model(case.model, given, vocab_size=size, task="MaskedLM", num_hidden_layers=1)
    rows = [(text, "marked" if "[E1]" in text else "plain") for text in (*TEXTS, "[E1] a", "b [E1]", "C c")]
    for name in ("train.csv", "validation.csv"):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("sentence", "label"), *(row for row in rows if row[0].strip())])
    config = tiny_finetune(tmp_path, max_length=LENGTH, lengths=[LENGTH], epochs=2)
    outcome = train(config, epath.Path(tmp_path / "run"))
    finish(outcome, epath.Path(tmp_path / "run"))
    saved = tmp_path / "run" / "model"
    model = find_model(str(tmp_path / "run"))
    ours = logits_of(model, inference="jax", batch=16)(encoder_of(model)(examples(False)))
    np.testing.assert_allclose(ours, logits_of_transformers(saved, False), atol=1e-4, rtol=0)
    marked = outcome.job.tokenizer.vocab_size - 2
    assert (outcome.job.train.tokens == marked).any(axis=1).sum() == 3
