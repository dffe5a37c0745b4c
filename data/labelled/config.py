"""The fields of a fine-tuning run's `config.data`: the source of labelled examples."""

from dataclasses import dataclass

from base.schema import field

SOURCES = ("hub", "tfds", "folder", "files")

HUB_NAME = "nyu-mll/glue"
TFDS_NAME = "glue"

READERS = {
    "path": ("folder",),
    "name": ("hub", "tfds"),
    "subset": ("hub",),
    "revision": ("hub",),
    "data_dir": ("tfds",),
    "train": ("files", "hub"),
    "validation": ("files", "hub"),
    "validation_share": ("files", "hub"),
    "test": ("files", "hub"),
    "text": ("files", "hub"),
    "text_pair": ("files", "hub"),
    "label": ("files", "hub"),
    "regression": ("files", "hub"),
    "label_names": ("files", "hub"),
    "pieces": ("files", "hub"),
    "negative": ("files", "hub"),
    "score": ("files", "hub"),
    "positive_labels": ("files", "hub"),
}
"""The sources that read a field, for fields that not all sources read; other sources would ignore the field."""


def readers_of(*, glue: bool) -> dict[str, tuple[str, ...]]:
    """READERS; for a GLUE task, whose splits and columns are known, without the fields that name them on the hub."""
    if not glue:
        return READERS
    return {
        name: tuple(kind for kind in kinds if kind != "hub") if "files" in kinds else kinds
        for name, kinds in READERS.items()
    }


@dataclass(frozen=True)
class LabelledConfig:
    """One source of labelled examples: a GLUE task from one of three places, or the user's own files."""

    source: str = field(
        "hub",
        "hub, tfds, folder: the GLUE task in config.task; files: the files in train, validation and test; hub without "
        "config.task: the data set in name",
        SOURCES,
    )
    path: str = field(
        "", "folder: the folder that holds CoLA, MRPC, ... in GLUE's tsv layout, local or gs://"
    )
    name: str = field(
        "",
        f"hub: a data set, or a folder in its layout; for a GLUE task one in the layout of {HUB_NAME}, the default; "
        "tfds: one in the layout of glue",
    )
    subset: str = field("", "hub: the configuration of a data set that is not GLUE's, if it has several")
    revision: str = field("", "hub: a commit, branch or tag; empty takes the newest")
    data_dir: str = field("", "tfds: the folder that holds prepared data sets, local or gs://")
    train: str = field(
        "",
        "files: csv, tsv, json, jsonl or parquet, all but parquet also .gz or .zst; paths or globs, comma-separated, "
        "local or gs://; hub: a split, empty takes 'train'",
    )
    validation: str = field(
        "",
        "files to evaluate on, in the formats of train; hub: a split, empty takes 'validation' if it is there",
    )
    validation_share: float = field(
        0.1,
        "files, hub: without validation examples, the share of each class in train that is held out to evaluate on",
    )
    test: str = field(
        "",
        "files to predict, in the formats of train, scored if they have labels; hub: a split, empty takes 'test' if it "
        "is there",
    )
    text: str = field(
        "sentence",
        "files, hub: the column or field that holds the text; tokens: the words, empty or 'sentence' takes 'tokens' or "
        "the first column; questions: the question, empty or 'sentence' takes 'question'",
    )
    text_pair: str = field(
        "",
        "files, hub: the column or field of the second text, if examples are pairs; questions: the context, empty "
        "takes 'context'",
    )
    label: str = field(
        "label",
        "files, hub: the column or field that holds the label; tokens: 'label' takes 'tags', 'ner_tags' or the last "
        "column if there is no such field; questions: the answers, 'label' takes 'answers'",
    )
    regression: bool = field(False, "files, hub: labels are scores, not classes")
    label_names: tuple[str, ...] = field(
        (), "files, hub: the classes in the order of their ids; empty takes the classes in train, sorted"
    )
    pieces: str = field(
        "first", "tokens: the pieces of a word that are trained to have its label", ("first", "all")
    )
    negative: str = field(
        "", "embedding: the column of a text that does not belong to the first text (a hard negative)"
    )
    score: str = field(
        "score",
        "embedding: the column with a score of how similar a pair of the evaluation sets is; 'score' is read if it is "
        "there; without scores, second texts are ranked",
    )
    positive_labels: tuple[str, ...] = field(
        (),
        "embedding: the labels (in the column label) of the pairs that belong together; empty takes all pairs",
    )
    max_train_examples: int = field(0, "number of training examples, from the first; 0 is all")
    max_eval_examples: int = field(0, "number of examples of each evaluation set, from the first; 0 is all")
