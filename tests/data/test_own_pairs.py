"""Pairs of texts for embeddings: which pairs are kept, what is scored and what is ranked, and mistakes in one line."""

import logging
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData
from data.labelled.open import open_labelled

TRAIN = "a\tb\tno\tgold_label\nq1\tp1\tn1\tentailment\nq2\tp2\tn2\tneutral\nq3\tp1\tn3\tentailment\n"
SCORED = "a\tb\tscore\nx\ty\t5.0\nu\tv\t0.5\n"


def opened(folder: Path, *, hold_out: bool = True, **changes: object) -> LabelledData:
    for name, content in (("train", TRAIN), ("scored", SCORED), ("plain", "a\tb\nx\ty\n")):
        if not (folder / f"{name}.tsv").exists():
            (folder / f"{name}.tsv").write_text(content)
    paths = {key: str(folder / f"{changes.pop(key)}.tsv") for key in ("validation", "test") if key in changes}
    given = {"train": str(folder / "train.tsv"), "text": "a", "text_pair": "b", **paths, **changes}
    return open_labelled(LabelledConfig(source="files", **given), "", hold_out=hold_out, pairs=True)


def test_pairs_are_filtered_by_their_label_and_have_a_negative(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        data = opened(
            tmp_path,
            **{"validation": "scored", "negative": "no"},
            **{"label": "gold_label", "positive_labels": ("entailment",)},
        )
    assert (data.train.first, data.train.second, data.train.negatives) == (
        ["q1", "q3"],
        ["p1", "p1"],
        ["n1", "n3"],
    )
    assert data.train.labels.tolist() == [0, 0]  # equal second texts are one candidate
    assert "2 of 3 pairs are kept, by config.data.positive_labels" in caplog.text
    assert opened(tmp_path, validation="scored").train.negatives is None


def test_a_column_of_scores_makes_correlations_and_without_it_pairs_are_ranked(tmp_path):
    scored = opened(tmp_path, validation="scored", test="plain")
    assert scored.task.kind == "similarity" and scored.task.chooses == "spearman"
    assert scored.evaluations["validation"].labels.tolist() == [5.0, 0.5]
    assert scored.tests["test"].labels is None
    ranked = opened(tmp_path, validation="plain", test="scored")
    assert ranked.task.kind == "embedding" and ranked.task.chooses == "ndcg_at_10"
    assert ranked.evaluations["validation"].labels.tolist() == [0]
    assert ranked.tests["test"].labels.tolist() == [0, 1]
    assert opened(tmp_path, validation="scored", score="").task.kind == "embedding"


def test_pairs_to_rank_are_held_out_where_no_file_has_them(tmp_path):
    lines = [f"q{i}\tp{i}\tn{i}" for i in range(20)]
    (tmp_path / "train.tsv").write_text("\n".join(["a\tb\tno", *lines]) + "\n")
    data = opened(tmp_path, negative="no", validation_share=0.2, max_train_examples=10)
    held = data.evaluations["validation"]
    assert len(held) == 4 and held.negatives is None and not set(held.first) & set(data.train.first)
    assert len(data.train) == 10 and data.train.origin.endswith("less 4 held out, first 10")
    assert np.array_equal(held.labels, np.arange(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_pair": ""}, r"^config\.data\.text_pair is empty, but config\.kind=embedding reads pairs"),
        ({"text_pair": "c"}, r"no field 'c'.*config\.data\.text_pair"),
        ({"negative": "c"}, r"no field 'c'.*config\.data\.negative"),
        ({"positive_labels": ("yes",)}, r"no field 'label'.*config\.data\.label"),
        (
            {"positive_labels": ("yes",), "label": "gold_label"},
            r"files train\.tsv: no pair has one of config\.data\.positive_labels=\['yes'\]; the labels are "
            "'entailment', 'neutral'$",
        ),
        ({"validation": "scored", "score": "b"}, r"scored\.tsv line 2: score 'y' should be a number; corr"),
        ({"validation": "scored", "score": "s"}, r"no field 's'.*config\.data\.score"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_no_glue_task_has_pairs_of_this_kind(tmp_path):
    with pytest.raises(UserError, match=r"config\.kind='embedding' reads pairs of texts from"):
        open_labelled(LabelledConfig(source="hub"), "mrpc", pairs=True)
