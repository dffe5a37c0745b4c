"""Commands that a test starts: what they can do without, where it takes them seconds and is not tested."""

from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "xla"
"""Compiled programs of the tests; a command has a cache of its own unless `config.compilation_cache` names this one."""
STAND_INS = {
    "tensorflow.py": "from unittest.mock import MagicMock\nconfig = MagicMock()\n",
    "clu/__init__.py": "",
    "clu/metric_writers.py": "from unittest.mock import MagicMock\nSummaryWriter = MagicMock()\n",
}


def without_tensorboard(folder: Path) -> Path:
    """Write modules that stand for TensorFlow and clu, whose import takes as long as all others; for PYTHONPATH.

    A command that finds them writes no TensorBoard events. tests/pretrain/test_gcs.py reads the real ones.
    """
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
