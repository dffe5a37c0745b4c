"""What the tables of settings share: values with a folder in them, a config with one other value, named tests."""

from pathlib import Path
from typing import Any, TypeVar

from base.schema import as_dict, build

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
_PHASES = "tests/faults/test_phases_of_a_run.py"
CHANGING_OVER_A_RUN = {
    "model.word_init": "tests/pretrain/test_word_vectors.py",
    "masking.rate_shape": "tests/pretrain/test_mask_rates.py",
    "masking.final_rate": "tests/pretrain/test_mask_rates.py",
    "masking.rate_levels": "tests/pretrain/test_mask_rates.py",
    "batch_warmup_steps": "tests/pretrain/test_batch_warmup.py",
    "batch_warmup_from": "tests/pretrain/test_batch_warmup.py",
    "phases[0].learning_rate": "tests/pretrain/test_schedules.py",
    "phases[0].schedule": "tests/pretrain/test_schedules.py",
    "phases[0].packing": _PHASES,
    "phases[0].global_rope_theta": _PHASES,
    "phases[0].local_rope_theta": _PHASES,
}
"""Fields that change a run at a later step, or its start by its text, and the tests in which they are seen to act."""


def placed(value: Any, place: Path) -> Any:
    """Nested values with the folder in them."""
    if isinstance(value, dict):
        return {name: placed(each, place) for name, each in value.items()}
    if isinstance(value, list):
        return [placed(each, place) for each in value]
    return value.format(place=place) if isinstance(value, str) else value


def with_field(config: T, path: str, value: Any) -> T:
    """The config with another value of a field."""
    tree: Any = as_dict(config)
    holder = tree
    *names, last = path.replace("[", ".").replace("]", "").split(".")
    for name in names:
        holder = holder[int(name) if name.isdecimal() else name]
    holder[last] = value
    return build(type(config), tree)


def not_mentioned(elsewhere: dict[str, str]) -> dict[str, str]:
    """Those of the fields whose last name does not occur in the file of tests that is named for them."""
    return {
        path: file
        for path, file in elsewhere.items()
        if not (ROOT / file).is_file() or path.rpartition(".")[2] not in (ROOT / file).read_text()
    }
