"""Questions and their contexts: windows, places of answers, and answers out of windows as run_qa has them."""

import collections
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from data.labelled.questions import Questions, Reference
from finetune.classifier.finetuned_model import Trained, encoder_of
from finetune.classifier.inference import Facts
from finetune.kinds import QUESTIONS
from finetune.results.exact_match import exact_match, f1
from finetune.texts import spans as columns
from finetune.texts.question_encoding import Answering, QuestionEncoder
from finetune.texts.spans import NONE, Spans, best_spans, best_windows, right_answers, texts_of
from tests.finetune.family_tokenizers import CASES, write_tokenizer
from tokenizer.load import load

LONG = (
    "the same long text over and over again until naïve 中文字 must be cut somewhere, and  two spaces near a tab "
    * 3
)
CONTEXTS = [LONG, "Plain text, of The Mask.", "  É école in ÅSE\n", "中文字 and 日本"]
ANSWERS = ["naïve 中文字", "two spaces", "The Mask", "école", "文", "日本"]


def questions() -> Questions:
    """Each answer in each context that has it, and one that no context has."""
    references = [
        Reference(context, ((context.index(answer), answer),) if answer in context else ())
        for context in CONTEXTS
        for answer in ANSWERS
    ]
    return Questions(["text of what?"] * len(references), references, list(range(len(references))), "here")


@pytest.mark.parametrize("case", CASES)
def test_answers_are_places_of_tokens_in_each_window_that_has_all_of_them(case: str, tmp_path: Path):
    write_tokenizer(tmp_path, CASES[case])
    loaded, asked = load(str(tmp_path)), questions()
    special = loaded.tokenizer.num_special_tokens_to_add(is_pair=True)
    encoder = QuestionEncoder(loaded, Answering(stride=12), max_length=48 + special, token_types=2)
    encoded = encoder(asked)
    assert encoded.spans is not None and encoded.labels is not None and encoded.lengths.max() <= 48 + special
    found = collections.Counter[int]()
    for row, (first, last) in enumerate(encoded.labels.tolist()):
        reference = asked.references[encoded.spans.questions[row]]
        if last:
            begin, end = encoded.spans.offsets[row, first, 0], encoded.spans.offsets[row, last, 1]
            assert reference.texts[0] in reference.context[begin:end]
            start, text = reference.answers[0]
            assert (
                encoded.spans.offsets[row, first, 1] > start
            )  # without one of the tokens, a part is missing
            assert encoded.spans.offsets[row, last, 0] < start + len(text)
            found[int(encoded.spans.questions[row])] += 1
        else:
            assert first == 0
    answered = {row for row, each in enumerate(asked.references) if each.answers}
    assert set(found) == answered
    assert encoded.truncated == len(ANSWERS)  # the long context


@pytest.mark.parametrize(
    "case", ["roberta", "bert, cased by its configuration", "modernbert, tokens of many kinds"]
)
def test_rows_are_those_of_the_tokenizers_own_truncation(case: str, tmp_path: Path):
    write_tokenizer(tmp_path, CASES[case])
    loaded = load(str(tmp_path))
    encoded = QuestionEncoder(loaded, Answering(stride=8), max_length=40, token_types=2)(questions())
    theirs = loaded.tokenizer
    theirs.enable_truncation(40, stride=8, strategy="only_second")
    first = theirs.encode("text of what?", LONG)
    rows = [first, *first.overflowing]
    assert len(rows) > 2
    for row, each in enumerate(rows):
        assert encoded.tokens[row, : encoded.lengths[row]].tolist() == each.ids
        assert encoded.spans.questions[row] == 0
    theirs.no_truncation()


def test_a_long_question_is_cut_to_half_of_a_row_and_a_stride_beyond_the_rest_is_refused(tmp_path: Path):
    write_tokenizer(tmp_path, CASES["roberta"])
    loaded = load(str(tmp_path))
    asked = Questions([LONG], [Reference("near the tab", ((5, "the"),))], [0], "here")
    encoded = QuestionEncoder(loaded, max_length=32, token_types=1)(asked)
    assert len(encoded) >= 1 and encoded.lengths.max() <= 32 and (encoded.labels[:, 1] > 16).any()
    with pytest.raises(
        UserError, match=r"^config\.questions\.stride=14 should be 13 or less with config\.max_length=32"
    ):
        QuestionEncoder(loaded, Answering(stride=14), max_length=32, token_types=1)
    with pytest.raises(UserError, match=r"^config\.max_length=5 leaves no room"):
        QuestionEncoder(loaded, max_length=5, token_types=1)


@pytest.mark.parametrize(
    ("start", "text", "found"),
    [(8, "context.", True), (8, "context here", False), (40, "context", False), (-1, "context", False)],
)
def test_an_answer_outside_its_context_has_no_target(start: int, text: str, found: bool, tmp_path: Path):
    """As a test set may have one: it ended a run after all training, before the model was written."""
    write_tokenizer(tmp_path, CASES["roberta"])
    asked = Questions(["what?"], [Reference("A short context.", ((start, text),))], [0], "here")
    encoded = QuestionEncoder(load(str(tmp_path)), max_length=48, token_types=1)(asked)
    assert encoded.labels is not None and len(encoded.labels) == 1
    assert bool(encoded.labels[0, 1]) == found


# ---- from logits to answers --------------------------------------------------------------------------------------


def run_qa(windows, contexts, n_best, longest, threshold):
    """Transformers' run_qa (postprocess_qa_predictions), as its documentation describes it, for one question."""
    candidates, null = [], None
    for starts, ends, offsets in windows:
        score = starts[0] + ends[0]
        null = score if null is None else min(null, score)
        for start in np.argsort(starts)[-1 : -n_best - 1 : -1]:
            for end in np.argsort(ends)[-1 : -n_best - 1 : -1]:
                outside = offsets[start][0] < 0 or offsets[end][0] < 0
                if outside or end < start or end - start + 1 > longest:
                    continue
                text = contexts[offsets[start][0] : offsets[end][1]]
                candidates.append((starts[start] + ends[end], text))
    best = max(candidates)
    return "" if threshold is not None and null - best[0] > threshold else best[1]


@pytest.mark.parametrize("threshold", [None, 0.0, -4.0, 1.5])
def test_answers_are_those_of_run_qa(threshold: float | None):
    rng = np.random.default_rng(0)
    S, context = 24, "abcdefghijklmnopqrstuvwxyz" * 2
    owner = np.array([0, 0, 0, 1, 2, 2])
    logits = rng.normal(0, 3, (8, len(owner), S, 2)).astype(np.float32)
    offsets = np.full((len(owner), S, 2), -1, np.int32)
    for row in range(len(owner)):
        for token in range(6, 22):
            offsets[row, token] = token + 4 * row, token + 4 * row + 1
    references = np.empty(3, object)
    references[:] = [Reference(context, None)] * 3
    spans = Spans(owner, offsets, references, 3, threshold)
    found = best_windows(best_spans(logits, offsets, np.full(len(owner), S), 3), spans)
    assert found.shape == (8, 3, 6)
    for member in range(8):
        told = texts_of(found[member], list(references))
        for question in range(3):
            rows = np.flatnonzero(owner == question)
            windows = [(logits[member, row, :, 0], logits[member, row, :, 1], offsets[row]) for row in rows]
            for n_best in (20, S):
                assert told[question] == run_qa(windows, context, n_best, 3, threshold)


def test_a_window_without_a_candidate_has_no_answer_and_padding_has_no_loss():
    logits = np.zeros((1, 6, 2), np.float32)
    logits[0, 4:] = 50.0  # padding
    found = best_spans(
        logits, np.full((1, 4, 2), -1, np.int32), np.array([4]), 3, np.array([[0, 0]], np.int32)
    )
    assert found[0].tolist() == [0, 0, NONE, 0, pytest.approx(np.log(4))]
    logits[0, 1] = np.nan
    assert np.isnan(best_spans(logits, np.full((1, 6, 2), 1, np.int32), np.array([6]), 3)[0, columns.SCORE])


def test_right_answers_have_full_scores():
    references = [Reference("a cat", ((2, "cat"),)), Reference("a dog", ())]
    assert texts_of(right_answers(references), references) == ["cat", ""]


# Hand-made, and the values of SQuAD's evaluation script, version 2.0, for them.
SCORES = [
    ("The cat!", ["cat"], 1.0, 1.0),
    ("a  Cat", ["dog", "the cat sees"], 0.0, 2 / 3),
    ("cat dog cat", ["cat cat"], 0.0, 0.8),
    ("", [], 1.0, 1.0),
    ("cat", [], 0.0, 0.0),
    ("", ["cat"], 0.0, 0.0),
    ("", ["the", "cat"], 0.0, 0.0),  # a right answer of which nothing is left does not count beside others
    ("the", ["a", "an"], 1.0, 1.0),  # nothing is left of either
    ("10,000", ["10000"], 1.0, 1.0),
    ("naïve", ["naive"], 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "right", "exact", "near"), SCORES)
def test_exact_match_and_f1_are_squads(answer: str, right: list[str], exact: float, near: float):
    assert (exact_match(answer, right), f1(answer, right)) == (exact, pytest.approx(near))


def test_scores_are_json_numbers():
    json.dumps([exact_match("a", ["b"]), f1("a", ["b"])])


@pytest.mark.parametrize(("stride", "shared"), [(128, 13), (4, 4)])
def test_shorter_rows_than_those_of_fine_tuning_share_what_they_can(stride: int, shared: int, tmp_path: Path):
    """--max_length of finetune.predict ended in a line about a field that the command does not have."""
    write_tokenizer(tmp_path, next(iter(CASES.values())))
    config = SimpleNamespace(vocab_size=10**6, type_vocab_size=2)
    facts = Facts(2, 384, stride=stride, longest_answer=30)
    model = Trained("m", epath.Path(tmp_path), False, QUESTIONS, (), config, facts, 40)  # type: ignore[arg-type]
    encoder = encoder_of(model)
    assert isinstance(encoder, QuestionEncoder) and encoder.answering.stride == shared
