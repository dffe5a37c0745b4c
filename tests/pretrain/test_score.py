"""Pseudo-log-likelihoods as plain transformers and torch compute them; minimal pairs."""

import json

import numpy as np
import pytest

from base.errors import UserError
from pretrain import score as module
from pretrain.named_models import open_models
from tests.finetune.tiny_task import write_model
from tokenizer.load import Loaded

SENTENCES = (
    "the old house near the river",
    "a cat follows slowly.",
    "never sees unbelievablehousetrees, because birds always find small red horses near a child",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("score"))


@pytest.fixture(scope="module")
def model(folder):
    return open_models([str(folder)])[0]


@pytest.fixture(scope="module")
def peer(folder):
    """Scores a sentence by plain transformers: each token is hidden with the rest of its word, or alone."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForMaskedLM.from_pretrained(folder).eval()

    def scores(sentence, whole_words):
        encoded = tokenizer(sentence, return_tensors="pt")
        ids, words, found = encoded["input_ids"][0], encoded.word_ids(0), []
        for place, word in enumerate(words):
            if word is None:
                continue
            hidden = ids.clone()
            rest = (
                [i for i, other in enumerate(words) if other == word and i >= place]
                if whole_words
                else [place]
            )
            hidden[rest] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = network(hidden[None], attention_mask=encoded["attention_mask"]).logits[0, place]
            found.append(torch.log_softmax(logits, dim=-1)[ids[place]].item())
        return found

    return scores


@pytest.mark.parametrize("metric", module.METRICS)
def test_scores_are_those_of_transformers(model, peer, metric):
    found = module.score(model, SENTENCES, metric=metric, batch=16)
    for sentence, ours in zip(SENTENCES, found, strict=True):
        theirs = peer(sentence, metric == "pll_word_l2r")
        assert len(theirs) == len(ours.scores)
        np.testing.assert_allclose(ours.scores, theirs, atol=1e-4)
        assert ours.total == pytest.approx(sum(theirs), abs=1e-3)


def test_an_unknown_token_counts_and_an_empty_sentence_has_none(model, monkeypatch):
    unknown = model.tokenizer.special.unk
    rows = [[9, 10], [], [9, unknown, 10]]
    monkeypatch.setattr(Loaded, "encode", lambda self, texts: [np.array(row, np.int32) for row in rows])
    assert [list(each.tokens) for each in module.score(model, ["a", "b", "c"])] == rows


def test_the_rest_of_a_word_tells_less_than_no_token(model):
    alone, words = (module.score(model, SENTENCES[2:], metric=name)[0] for name in module.METRICS)
    changed = [a != pytest.approx(b, abs=1e-6) for a, b in zip(alone.scores, words.scores)]
    assert any(changed) and not all(changed)  # words of one token are scored alike


def test_the_command_prints_a_line_for_each_sentence(folder, model, tmp_path, capfd):
    (tmp_path / "lines.txt").write_text("\n".join([SENTENCES[0], " ", SENTENCES[1], ""]))
    out = tmp_path / "scores.jsonl"
    words = [f"--model={folder}", f"--file={tmp_path / 'lines.txt'}", f"--json={out}"]
    assert module.main(["pretrain.score", *words]) == 0
    rows = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    found = module.score(model, SENTENCES[:2])
    assert rows.pop(1) == ["", "", "0", ""], "an empty line keeps its place"
    assert [row[3] for row in rows] == list(SENTENCES[:2])
    assert [float(row[0]) for row in rows] == pytest.approx([each.total for each in found], abs=1e-3)
    assert [float(row[1]) for row in rows] == pytest.approx([each.mean for each in found], abs=1e-3)
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert kept.pop(1) == {"sentence": "", "sum": None, "mean": None, "tokens": [], "scores": []}
    assert (
        [len(each["scores"]) for each in kept]
        == [len(each.scores) for each in found]
        == [int(r[2]) for r in rows]
    )


def test_minimal_pairs_have_an_accuracy_and_its_error(folder, model, tmp_path, capfd):
    totals = [each.total for each in module.score(model, SENTENCES[:2])]
    better, worse = SENTENCES[:2] if totals[0] > totals[1] else SENTENCES[1::-1]
    pairs = [(better, worse)] * 3 + [(worse, better)]
    (tmp_path / "a.tsv").write_text("".join(f"{good}\t{bad}\n" for good, bad in pairs))
    (tmp_path / "b.jsonl").write_text(json.dumps({"sentence_good": worse, "sentence_bad": worse}) + "\n")
    files = f"--pairs={tmp_path / 'a.tsv'},{tmp_path / 'b.jsonl'}"
    assert module.main(["pretrain.score", f"--model={folder}", files, "--json=-"]) == 0
    a, b, both = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (a["accuracy"], a["standard_error"], a["number"]) == (
        0.75,
        pytest.approx((0.75 * 0.25 / 4) ** 0.5),
        4,
    )
    assert (b["accuracy"], b["right"], b["ties"]) == (0.0, 0, 1)  # equal sums are not right
    assert (both["pairs"], both["right"], both["ties"], both["number"]) == ("all", 3, 1, 5)


@pytest.mark.parametrize(
    ("words", "files", "said"),
    [
        (["a sentence"], {}, "no --model given"),
        (["--model={folder}"], {}, "one of the three"),
        (["--model={folder}", "a", "--file=x"], {}, "one of the three"),
        (["--model={folder}", "--file=none.txt"], {}, "none.txt"),
        (["--model={folder}", "--file=blank.txt"], {"blank.txt": "\n \n"}, "holds no sentence"),
        (
            ["--model={folder}", "--pairs=p.tsv"],
            {"p.tsv": "one\ttwo\nthree\n"},
            "line 2 should have two sentences",
        ),
        (
            ["--model={folder}", "--pairs=p.jsonl"],
            {"p.jsonl": '{"good": "a"}\n'},
            "line 1 should have fields good",
        ),
        (["--model={folder}", "--pairs=p.tsv"], {"p.tsv": ""}, "has no pair"),
        (["--model={folder}", "--pairs=,"], {}, "--pairs=, names no file"),
        (["--model={folder}", "the " * 80], {}, "sentence 1 .* takes 62 of them at most"),
        (["--model={folder}", "a", "--metric=ppl"], {}, "pll_word_l2r"),
        (["--model={folder}", "a", "--batch=0"], {}, "--batch=0 should be 1 or more"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path, monkeypatch, words, files, said):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        module.main(["pretrain.score", *(word.format(folder=folder) for word in words)])
