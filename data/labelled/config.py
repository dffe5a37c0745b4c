"""The fields of a fine-tuning run's `config.data`: the source of labelled examples."""

from dataclasses import dataclass

from base.schema import field

SOURCES = ("hub", "tfds", "folder", "files")

HUB_NAME = "nyu-mll/glue"
TFDS_NAME = "glue"

READERS = {
    "path": ("folder",),
    "name": ("hub", "tfds"),
    "revision": ("hub",),
    "data_dir": ("tfds",),
    "train": ("files",),
    "validation": ("files",),
    "validation_share": ("files",),
    "test": ("files",),
    "text": ("files",),
    "text_pair": ("files",),
    "label": ("files",),
    "regression": ("files",),
    "label_names": ("files",),
}
"""The sources that read a field, for fields that not all sources read; other sources would ignore the field."""


@dataclass(frozen=True)
class LabelledConfig:
    """One source of labelled examples: a GLUE task from one of three places, or the user's own files."""

    source: str = field(
        "hub",
        "hub, tfds, folder: the GLUE task in config.task; files: the files in train, validation and test",
        SOURCES,
    )
    path: str = field(
        "", "folder: the folder that holds CoLA, MRPC, ... in GLUE's tsv layout, local or gs://"
    )
    name: str = field("", f"hub: a data set in the layout of {HUB_NAME}, the default; tfds: of {TFDS_NAME}")
    revision: str = field("", "hub: a commit, branch or tag; empty takes the newest")
    data_dir: str = field("", "tfds: the folder that holds prepared data sets, local or gs://")
    train: str = field(
        "",
        "files: csv, tsv, json or jsonl, plain, .gz or .zst; paths or globs, comma-separated, local or gs://",
    )
    validation: str = field("", "files: files to evaluate on, in the formats of train")
    validation_share: float = field(
        0.1,
        "files: without validation files, the share of each class in train that is held out to evaluate on",
    )
    test: str = field(
        "", "files: files to predict, in the formats of train; they are scored if they have labels"
    )
    text: str = field("sentence", "files: the column or field that holds the text")
    text_pair: str = field("", "files: the column or field of the second text, if examples are pairs")
    label: str = field("label", "files: the column or field that holds the label")
    regression: bool = field(False, "files: labels are scores, not classes")
    label_names: tuple[str, ...] = field(
        (), "files: the classes in the order of their ids; empty takes the classes in train, sorted"
    )
    max_train_examples: int = field(0, "number of training examples, from the first; 0 is all")
    max_eval_examples: int = field(0, "number of examples of each evaluation set, from the first; 0 is all")
