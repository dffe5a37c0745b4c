"""Runs of each objective and family lose what they lost before; tests/goldens/write.py makes the losses anew."""

import json

import pytest

from tests.goldens.runs import CASES, GO_ON, LOSSES, STEPS, assert_golden, losses, name_of

LENGTHS = {"train/loss": STEPS, "train/grad_norm": STEPS, "eval/loss": STEPS // 10}


def test_every_case_has_its_losses():
    kept = json.loads(LOSSES.read_text())
    assert list(kept) == [name_of(*case) for case in CASES]
    assert all({name: len(values) for name, values in case.items()} == LENGTHS for case in kept.values())


@pytest.mark.parametrize(
    "objective, family", [case for case in CASES if case not in {("mlm", each) for each in GO_ON}]
)
def test_a_run_loses_what_it_lost(tmp_path, objective, family):
    assert_golden(objective, family, losses(objective, family, tmp_path))
