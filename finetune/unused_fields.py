"""The fields of a fine-tuning config that nothing reads, because of what other fields say."""

from collections.abc import Iterator

from base.schema import Unused
from data.config import unread
from data.labelled.config import readers_of
from finetune.config import FROM_MNLI, FinetuneConfig
from finetune.search.search_space import FIELDS
from pretrain.unused_fields import of_profile, unused_moments, unused_skips

READ_IN_EVALUATION = (
    *("kind", "task", "data", "embedding", "questions", "eval.batch", "inference", "compilation_cache"),
)
"""Fields that an evaluation of a trained model reads."""


def unused_fields(config: FinetuneConfig) -> list[Unused]:
    """The fields that would have no effect in a run, a search or a benchmark of this config."""
    return [
        *_of_data(config),
        *_of_learning(config),
        *_of_search(config),
        *_of_benchmark(config),
        *of_profile(config.log, config.steps, by=("steps",)),
    ]


def unused_in_evaluation(config: FinetuneConfig) -> list[Unused]:
    """The fields that have no effect on the scores of a model that is trained already."""
    groups = [name for name in config.__dataclass_fields__ if name not in ("kind", "task", "data", "eval")]
    of_eval = [f"eval.{name}" for name in config.eval.__dataclass_fields__]
    own_of_hub = config.data.source == "hub" and not config.task
    of_data = [] if config.data.train or own_of_hub else ["data.max_train_examples", "data.validation_share"]
    names = tuple(name for name in (*groups, *of_eval, *of_data) if name not in READ_IN_EVALUATION)
    because = f"nothing is trained here; the command reads {', '.join(f'config.{name}' for name in READ_IN_EVALUATION)}"
    of_tests = Unused(("data.test",), "the model is evaluated on config.data.validation; name the file there")
    return [Unused(names, because), of_tests, *_of_data(config)]


def _of_data(config: FinetuneConfig) -> Iterator[Unused]:
    source = config.data.source
    named = bool(config.task or config.benchmark.tasks)
    glue = named or not (config.data.name or config.kind != "sequence")
    yield from unread(source, readers_of(glue=glue), "data")
    if source == "hub" and named:
        because = "the configuration of a GLUE task is known; unset it, or config.task"
        yield Unused(("data.subset",), because, ("task", "benchmark.tasks"))
    if config.kind == "tokens":
        because = "config.kind=tokens gives each word a class; unset it, or set config.kind=sequence"
        yield Unused(("data.text_pair", "data.regression"), because, ("kind",))
    else:
        because = f"config.kind={config.kind} labels whole texts; unset it, or set config.kind=tokens"
        yield Unused(("data.pieces",), because, ("kind",))
    if config.kind != "sequence":
        because = (
            f"config.kind={config.kind} classifies no whole texts; unset it, or set config.kind=sequence"
        )
        yield Unused(("model.pooling",), because, ("kind",))
    yield from _of_embedding(config)
    yield from _of_questions(config)
    if config.data.validation:
        because = "config.data.validation is evaluated on, so nothing is held out; unset one of the two"
        yield Unused(("data.validation_share",), because, ("data.validation",))
    if not config.eval.tests:
        because = "config.eval.tests=False labels no test set; unset one of the two"
        yield Unused(("data.test",), because, ("eval.tests",))
    own = source == "files" or (source == "hub" and not glue)
    if (own and config.data.regression) or config.task == "stsb":
        by = ("data.regression",) if own else ("task",)
        yield Unused(("label_smoothing",), "scores have no classes to spread a share over; unset it", by)


def _of_embedding(config: FinetuneConfig) -> Iterator[Unused]:
    if config.kind != "embedding":
        because = f"config.kind={config.kind} has no vectors of texts; unset it, or set config.kind=embedding"
        names = ("data.negative", "data.score", "data.positive_labels", "embedding")
        yield Unused(names, because, ("kind",))
        return
    because = "config.kind=embedding has no classes; unset it, or set config.kind=sequence"
    yield Unused(("data.regression", "data.label_names", "label_smoothing"), because, ("kind",))
    if not config.data.positive_labels:
        because = "config.data.positive_labels is empty, so labels are not read; unset it, or set that"
        yield Unused(("data.label",), because, ("data.positive_labels",))


def _of_questions(config: FinetuneConfig) -> Iterator[Unused]:
    if config.kind != "questions":
        because = (
            f"config.kind={config.kind} has no answers in contexts; unset it, or set config.kind=questions"
        )
        yield Unused(("questions",), because, ("kind",))
        return
    because = "config.kind=questions has no classes; unset it, or set config.kind=sequence"
    yield Unused(("data.regression", "data.label_names", "label_smoothing"), because, ("kind",))


def _of_learning(config: FinetuneConfig) -> Iterator[Unused]:
    if config.learning_rates:
        because = (
            f"config.learning_rates={list(config.learning_rates)} is trained in its place; set that instead"
        )
        yield Unused(("optimizer.learning_rate",), because, ("learning_rates",))
    if config.steps:
        because = f"config.steps={config.steps} is taken in its place; set config.steps=0 for epochs"
        yield Unused(("epochs",), because, ("steps",))
    if config.schedule.warmup_steps:
        warmup = f"config.schedule.warmup_steps={config.schedule.warmup_steps}"
        because = f"{warmup} is taken in its place; unset one of the two"
        yield Unused(("schedule.warmup_ratio", "search.warmup_ratio"), because, ("schedule.warmup_steps",))
    if not config.eval.restore_best:
        because = (
            "config.eval.restore_best=False ends with the last weights, and the average is chosen by evaluation; "
            "unset one of the two"
        )
        yield Unused(("average.decay",), because, ("eval.restore_best",))
    yield from unused_moments(config.optimizer.name)
    yield from unused_skips(config.on_nonfinite)


def _of_search(config: FinetuneConfig) -> Iterator[Unused]:
    names = ("objective", *FIELDS)
    if not config.search.trials:
        because = "config.search.trials=0 is no search; set config.search.trials"
        yield Unused(tuple(f"search.{name}" for name in names), because, ("search.trials",))
        return
    for name, path in FIELDS.items():
        if drawn := getattr(config.search, name):
            because = f"config.search.{name}={list(drawn)} is drawn from in its place; unset one of the two"
            yield Unused((path,), because, (f"search.{name}",))


def _of_benchmark(config: FinetuneConfig) -> Iterator[Unused]:
    tasks = config.benchmark.tasks
    if not tasks:
        because = "config.benchmark.tasks is empty: there is one task; unset it, or list the tasks"
        yield Unused(("benchmark.from_mnli",), because, ("benchmark.tasks",))
        return
    if not {each.task for each in tasks} & set(FROM_MNLI):
        because = f"config.benchmark.tasks has none of {', '.join(FROM_MNLI)}; unset it, or add one of them"
        yield Unused(("benchmark.from_mnli",), because, ("benchmark.tasks",))
    for name, path in (
        ("epochs", "epochs"),
        ("global_batch", "global_batch"),
        ("learning_rate", "optimizer.learning_rate"),
    ):
        if all(getattr(each, name) is not None for each in tasks):
            set_in = tuple(f"benchmark.tasks[{index}].{name}" for index in range(len(tasks)))
            because = f"every task has its own; set config.benchmark.tasks[0].{name}"
            yield Unused((path,), because, set_in)
    if config.steps:
        of_tasks = tuple(f"benchmark.tasks[{index}].epochs" for index in range(len(tasks)))
        because = f"config.steps={config.steps} is taken in its place; set config.steps=0 for epochs"
        yield Unused(of_tasks, because, ("steps",))
