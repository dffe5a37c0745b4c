"""GLUE prepared by TFDS is read in TFDS's own order, by what the test writes in its layout, without TensorFlow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData
from data.labelled.open import open_labelled

MRPC = ("not_equivalent", "equivalent")


def prepare(folder: Path, task: str, splits: dict[str, list], *, classes=MRPC) -> Path:
    """Write `glue/TASK` with (label, index) pairs for each split."""
    import tensorflow_datasets as tfds

    home = folder / "glue" / task / "2.0.0"
    home.mkdir(parents=True)
    label = tfds.features.ClassLabel(names=classes) if classes else np.float32
    texts = {"sentence1": tfds.features.Text(), "sentence2": tfds.features.Text()}
    identity = tfds.core.DatasetIdentity(
        name="glue", version=tfds.core.Version("2.0.0"), data_dir=str(home), module_name="glue"
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=tfds.features.FeaturesDict({**texts, "label": label, "idx": np.int32})
    )
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2, file_format="array_record")
    writer.initialize_splits(list(splits))
    for split, examples in splits.items():
        rows = [
            {"sentence1": f"første {index}", "sentence2": f"{split} {index}", "label": label, "idx": index}
            for label, index in examples
        ]
        writer.add_examples({split: rows})
    writer.close_all()
    return home


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(
        folder, "mrpc",
        {"train": [(1, 5), (0, 3), (0, 4)], "validation": [(1, 0)], "test": [(-1, 2), (-1, 0), (-1, 1)]},
    )  # fmt: skip
    prepare(folder, "stsb", {"train": [(2.5, 0)], "validation": [(5.0, 0)], "test": [(-1.0, 0)]}, classes=())
    prepare(folder, "rte", {"train": [(1, 0), (0, 1)]}, classes=("entailment", "not_entailment"))
    info = prepare(folder, "wnli", {"train": [(0, 0)]}) / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return folder


def read(folder: Path, task: str, **config) -> LabelledData:
    return open_labelled(LabelledConfig(source="tfds", data_dir=str(folder), **config), task)


def test_examples_keep_glues_numbers_in_the_order_of_tfds(prepared):
    data = read(prepared, "mrpc")
    assert data.train.first == ["første 5", "første 3", "første 4"]
    assert data.train.second == ["train 5", "train 3", "train 4"]
    assert data.train.labels.tolist() == [1, 0, 0] and data.train.labels.dtype == np.int32
    assert data.train.origin == "tfds glue/mrpc train (3 examples, officially 3668)"
    assert data.tests["test"].ids == [2, 0, 1]
    assert data.tests["test"].labels is None


def test_scores_and_limits(prepared):
    assert read(prepared, "stsb").evaluations["validation"].labels.tolist() == [5.0]
    assert read(prepared, "stsb").tests["test"].labels is None
    data = read(prepared, "mrpc", max_train_examples=2)
    assert data.train.ids == [5, 3] and data.train.origin == "tfds glue/mrpc train, first 2"


@pytest.mark.parametrize(
    ("task", "config", "message"),
    [
        ("cola", {}, "config.data.name='glue/cola' is not prepared in "),
        ("mrpc", {"name": "paste"}, "config.data.name='paste/mrpc' is not prepared in "),
        ("rte", {}, "config.data.name: 'glue/rte' has no split 'validation'; it has train"),
        ("wnli", {}, "config.data.name='glue/wnli' is prepared as tfrecord, which has no random access; "),
    ],
)
def test_what_is_not_there_is_one_line(prepared, task, config, message):
    with pytest.raises(UserError) as raised:
        read(prepared, task, **config)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_reading_does_not_import_tensorflow(prepared):
    code = (
        "import sys; from data.labelled.config import LabelledConfig; from data.labelled.open import open_labelled\n"
        f"data = open_labelled(LabelledConfig(source='tfds', data_dir={str(prepared)!r}), 'mrpc')\n"
        "assert len(data.train) == 3; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=120)
