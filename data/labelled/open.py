"""Opens labelled examples from any source."""

from collections.abc import Collection

from base.errors import UserError
from data.labelled.config import LabelledConfig, readers_of
from data.labelled.examples import Examples, LabelledData, Limits, by_split
from data.labelled.labels import require_two_classes
from data.labelled.own_files import ONE_CLASS, read_files
from data.labelled.own_pairs import read_pairs
from data.labelled.own_questions import read_questions
from data.labelled.own_sentences import read_sentences
from data.labelled.tasks import CLASSES, Task, find_task
from data.sources import check_fields

PARTS = ("train", "evaluations", "tests")


def open_labelled(
    config: LabelledConfig,
    task: str,
    parts: Collection[str] = PARTS,
    *,
    ids: bool = True,
    hold_out: bool = False,
    per_word: bool = False,
    pairs: bool = False,
    questions: bool = False,
) -> LabelledData:
    """Read a task's examples.

    Args:
      config: the run's config.data.
      task: the run's config.task; '' with config.data.source=files.
      parts: the parts to read, among train, evaluations and tests; the others stay empty.
      ids: whether the user's files may give a class of config.data.label_names by its number in that list.
      hold_out: whether to hold out a share of the user's training file if there is no validation file.
      per_word: whether each word has a label (config.kind=tokens).
      pairs: whether the examples are pairs of texts for embeddings (config.kind=embedding).
      questions: whether they are questions with contexts (config.kind=questions).

    Raises:
      UserError: a mistake in the config, in the source or in an example.
    """
    own_kind = per_word or pairs or questions
    check_fields(config, "config.data", readers_of(glue=bool(task) or not (config.name or own_kind)))
    if task and config.subset:
        raise UserError(
            f"config.data.subset={config.subset!r} has no effect: config.task={task!r} names it; unset it"
        )
    limits = Limits.from_config(config)
    if own_kind:
        if task or config.source not in ("files", "hub"):
            kind, what = ("tokens", "words and their labels") if per_word else ("embedding", "pairs of texts")
            if questions:
                kind, what = "questions", "questions and their contexts"
            raise UserError(
                f"config.kind={kind!r} reads {what} from config.data.source=files or hub, and no GLUE "
                "task; set config.data.source, and config.task=''"
            )
        read = read_sentences if per_word else read_questions if questions else read_pairs
        return read(config, parts, limits, hold_out=hold_out)
    if config.source == "files" or (config.source == "hub" and config.name and not task):
        if task:
            raise UserError(
                f"config.task={find_task(task).name!r} is a GLUE task, but config.data.source='files' reads files "
                "of your own; set config.task='', or config.data.source to hub, tfds or folder"
            )
        data = read_files(config, parts, limits, ids=ids, hold_out=hold_out)
        hint = ONE_CLASS
    else:
        glue_task = find_task(task)
        data = by_split(glue_task, _read_glue(config, glue_task, parts, limits))
        hint = ""
    if data.train is not None and data.train.labels is not None and data.task.kind == CLASSES:
        limited = "; or raise config.data.max_train_examples" if limits.train else ""
        require_two_classes(data.train.labels, data.task.labels, data.train.origin, hint + limited)
    return data


def _read_glue(
    config: LabelledConfig, task: Task, parts: Collection[str], limits: Limits
) -> dict[str, Examples]:
    of_part = {
        "train": (task.train,) if task.train else (),
        "evaluations": task.evaluations,
        "tests": task.tests,
    }
    splits = [split for part in PARTS if part in parts for split in of_part[part]]
    match config.source:
        case "hub":
            from data.labelled.glue_hub import read_hub

            return read_hub(config, task, splits, limits)
        case "tfds":
            from data.labelled.glue_tfds import read_tfds

            return read_tfds(config, task, splits, limits)
        case "folder":
            from data.labelled.glue_folder import read_folder

            return read_folder(config, task, splits, limits)
    raise UserError(f"config.data.source={config.source!r} is not one of hub, tfds, folder, files")
