"""Which process of a run is late, by what each says of itself."""

import jax
import pytest

from pretrain.runtime.beats import Activity, Beats, Record, late

WAITING, READING = "step 14", "waiting for the batch of step 13"


@pytest.mark.parametrize(
    ("records", "quiet", "said"),
    [
        (
            {0: Record(8, WAITING, 60), 1: Record(5, READING, 61.2), 2: Record(8, WAITING, 59)},
            {},
            f"process 1 is late: at '{READING}' for 61.2 s; others are at '{WAITING}'",
        ),
        (
            {0: Record(8, WAITING, 60), 1: Record(8, WAITING, 60)},
            {1: 31.4},
            f"process 1 is late: no sign of life for 31.4 s, the last at '{WAITING}'",
        ),
        (
            {
                0: Record(2, "the tokenizer", 90),
                1: Record(2, "the tokenizer", 80, 0),
                2: Record(1, "x", 1, 0),
            },
            {},
            "process 0 is late: at 'the tokenizer' for 90 s; processes 1 and 2 wait for it",
        ),
        (
            {
                number: Record(4, "the save", 9, place="wait" if number != 2 else "write")
                for number in range(5)
            },
            {},
            "process 2 is late: at 'the save' for 9 s, in write; the others are in wait",
        ),
        (
            {0: Record(4, "the save", 9, place="wait"), 1: Record(4, "the save", 9, place="write")},
            {},
            "no process is behind the others at 'the save' (process 0 in wait, process 1 in write)",
        ),
        (
            {number: Record(number // 7, f"step {number // 7}", 3) for number in range(9)},
            {},
            "processes 0, 1, 2 and 4 more are late: at 'step 0' for 3 s; others are at 'step 1'",
        ),
    ],
)
def test_the_process_that_the_others_wait_for_is_named(records, quiet, said):
    assert late(records, quiet) == said


def test_an_activity_inside_another_takes_its_place():
    activity = Activity()
    seen = [activity.record()]
    with activity.doing("evaluation"):
        with activity.doing("save"):
            seen.append(activity.record())
        seen.append(activity.record())
    with activity.waiting(3):
        seen.append(activity.record())
    seen.append(activity.record())
    assert [(each.begun, each.name, each.waits) for each in seen] == [
        (0, "the start", None),
        (2, "save", None),
        (3, "evaluation", None),
        (4, "what comes after evaluation", 3),
        (4, "what comes after evaluation", None),
    ]


class Store(dict):
    """Stands in for jax's client."""

    def key_value_set(self, key, value, allow_overwrite):
        self[key] = value

    def key_value_dir_get(self, folder):
        return list(self.items())

    def key_value_try_get(self, key):
        if key not in self:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self[key]


def test_a_process_without_beats_is_silent_but_not_while_the_one_that_looks_was_stopped():
    store = Store()
    first, second, third = processes = [Beats(store, number, 3, 6.0, Activity()) for number in range(3)]

    def beat(*beating: Beats) -> None:
        for each in beating:
            each.every = 0.0  # so that the next beat may come at once
            each.beat()
            each.every = 1.0

    beat(second, third, first)
    assert [first.silent(1.0), first.silent(500.0)] == [[], []]
    beat(third, first)
    assert [first.silent(1.0) for _ in range(4)] == [[], [], [], [1]]
    named = "process 1 is late: no sign of life for 7 s, the last at 'the start'"
    assert first.quiet() == named and [each.cut_off for each in processes] == [False, False, False]
    beat(first)
    assert third.late() == named
    first.every = second.every = third.every = 0.0
    assert second.gone() == "processes 0, 1 and 2 of the run are gone"
    store.clear()
    assert second.gone() == "process 0 of the run is gone"
