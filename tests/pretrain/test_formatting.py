"""Numbers as people read them."""

import pytest

from base import formatting


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (999_990, "1.0M"), (1234, "1.2k"), (3.04e9, "3.0B"), (1.5e12, "1.5T")],
)
def test_counts(number, text):
    assert formatting.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (7500, "2h05m"),
        (1_047_600, "12d03h"),
        (float("nan"), "?"),
    ],
)
def test_durations(seconds, text):
    assert formatting.duration(seconds) == text


def test_flops():
    assert [formatting.flops(n) for n in (12, 2.5e9, 9.9999e11, 3.2e15)] == [
        "12 FLOP",
        "2.5 GFLOP",
        "1.0 TFLOP",
        "3.2 PFLOP",
    ]


def test_sizes():
    assert [formatting.size(n) for n in (512, 2048, 3.4 * 2**30)] == ["512 B", "2.0 KiB", "3.4 GiB"]
