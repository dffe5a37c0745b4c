"""`python -m tests.goldens.write`: make losses.json anew, after a change that is meant to change losses.

A commit that writes it anew says why the losses are other ones. Losses are printed beside those that were there.
"""

import json
import tempfile
from pathlib import Path

from tests import conftest  # noqa: F401 - compiles as the tests do
from tests.goldens.runs import CASES, LOSSES, losses, name_of


def main() -> None:
    """Run every case, and write what it lost."""
    before = json.loads(LOSSES.read_text()) if LOSSES.exists() else {}
    made = {}
    for objective, family in CASES:
        name = name_of(objective, family)
        with tempfile.TemporaryDirectory() as folder:
            made[name] = losses(objective, family, Path(folder))
        last = before[name]["train/loss"][-1] if name in before else float("nan")
        print(f"{name}: last train/loss {made[name]['train/loss'][-1]:.6f}, was {last:.6f}")
    LOSSES.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
