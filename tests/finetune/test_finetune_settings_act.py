"""Every field of a fine-tuning config acts where it is set, and is refused in one line where it could not."""

import csv
import dataclasses
import functools
import hashlib
import json
import typing

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from base.command_line import read
from base.errors import UserError
from base.suggestions import Names
from finetune.config import BenchmarkTask, FinetuneConfig
from finetune.glue.all_tasks import task_configs
from finetune.job import assemble
from finetune.kind_configs import QuestionsConfig
from finetune.population.state import abstract_state, population_mesh
from finetune.population.step_inputs import step_inputs
from finetune.population.train_step import make_train_step
from finetune.search.search_space import ranges
from finetune.texts.batching import evaluation_batches
from finetune.train import train
from finetune.unused_fields import unused_fields, unused_in_evaluation
from tests.finetune.tiny_task import tiny_finetune, write_examples, write_model
from tests.settings import not_mentioned, placed, with_field


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with examples of several kinds, and models."""
    folder = tmp_path_factory.mktemp("place")
    write_model(folder, layers=1)
    write_model(folder / "deep", layers=3)  # two of them in a loop, which can be unrolled
    write_examples(folder / "train.csv", 50)
    write_examples(folder / "validation.csv", 21, seed=1)
    write_examples(folder / "pairs.csv", 30, pairs=True)
    write_examples(folder / "scores.csv", 30, kind="scores")
    write_model(folder / "other", seed=3, layers=1)
    with (folder / "train.csv").open(newline="") as source, (folder / "columns.csv").open("w") as file:
        writer = csv.writer(file)
        for sentence, label in csv.reader(source):
            writer.writerow([sentence, label, sentence[:9] if label != "label" else "short", label + "s"])
    for name, header, columns in (
        ("RTE", "index\tsentence1\tsentence2\tlabel", "{0}\tthe cat\tthe dog sees\tentailment"),
        ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t{0}\t{0}\ta bird\ta horse and a dog"),
    ):
        (folder / "glue" / name).mkdir(parents=True)
        rows = [columns.format(index) for index in range(16)]
        rows[0] = rows[0].replace("entailment", "not_entailment").replace("1\t", "0\t", name == "MRPC")
        for part in ("train", "dev"):
            (folder / "glue" / name / f"{part}.tsv").write_text("\n".join([header, *rows]) + "\n")
    return folder


# ---- what is seen of a config ------------------------------------------------------------------------------------


def members(config, place):
    return config.members, {name: array.tolist() for name, array in step_inputs(config, 100).items()}


def examples(config, place):
    job = assemble(config)
    sets = {each.name: each.encoded.tokens.sum() for each in job.evaluations}
    return (
        job.labels,
        job.train.tokens.sum(),
        sets,
        job.plan.lengths,
        list(job.data.tests),
        job.steps,
        job.metric,
    )


def start(config, place):
    return float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(assemble(config).params)))


def program(config, place):
    """The program of a step."""
    job = assemble(config)
    step = make_train_step(job.classifier, job.optimizer, job.config)
    state = abstract_state(job.classifier, job.optimizer, len(config.members), job.mesh)
    count, rows, length = len(config.members), config.global_batch, 16
    tokens = jax.ShapeDtypeStruct((count, rows, length), jnp.int32)
    batch = dict.fromkeys(("tokens", "segments", "token_types"), tokens)
    batch["labels"] = jax.ShapeDtypeStruct((count, rows), jnp.int32)
    batch["weights"] = jax.ShapeDtypeStruct((count, rows), jnp.float32)
    batch |= job.inputs
    with jax.set_mesh(job.mesh), jax.default_matmul_precision(config.matmul_precision):
        return jax.jit(step).lower(state, batch).as_text()


def mesh(config, place):
    return dict(population_mesh(config.mesh, len(config.members)).shape)


def evaluated_at_once(config, place):
    job = assemble(config)
    return len(list(evaluation_batches(job.evaluations[0].encoded, job.plan.lengths, config.eval.batch)))


def tasks(config, place):
    return {name: dataclasses.replace(each) for name, each in task_configs(config, epath.Path("w")).items()}


def searched(config, place):
    return ranges(config)


def files(config, place):
    """What a run of four steps leaves: logged and evaluated steps, checkpoints, how it ended."""
    workdir = epath.Path(place / f"files-{hashlib.sha256(repr(config).encode()).hexdigest()}")
    outcome = train(dataclasses.replace(config, steps=4), workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return (
        [line["step"] for line in lines if "train/loss" in line],
        [line["step"] for line in lines if "eval/accuracy" in line],
        sorted(path.name for path in (workdir / "checkpoints").iterdir()),
        outcome.step,
        outcome.params is outcome.state.best,
        (workdir / "profile").exists(),
    )


GLUE = {"data": {"source": "hub", "train": "", "validation": ""}}
TWO = [{"task": "rte"}, {"task": "mnli"}]

ACTS: dict[str, tuple[typing.Any, typing.Any]] = {
    "task": ("mrpc", examples),
    "init_from": ("{place}/other/model", start),
    "freeze": ("encoder", program),
    "seed": (3, members),
    "seeds": (2, members),
    "learning_rates": ([1e-3, 2e-3], members),
    "epochs": (3, examples),
    "steps": (3, examples),
    "global_batch": (16, examples),
    "grad_accum": (2, program),
    "max_length": (12, examples),
    "lengths": ([44, 48], examples),
    "label_smoothing": (0.3, program),
    "dtype": ("bfloat16", program),
    "matmul_precision": ("highest", program),
    "data.train": ("{place}/pairs.csv", examples),
    "data.validation": ("{place}/columns.csv", examples),
    "data.validation_share": (0.4, examples),
    "data.test": ("{place}/columns.csv", examples),
    "data.text": ("short", examples),
    "data.text_pair": ("other", examples),
    "data.label": ("labels", examples),
    "data.regression": (True, examples),
    "data.label_names": (["none", "animal"], examples),
    "data.max_train_examples": (20, examples),
    "data.max_eval_examples": (5, examples),
    "model.dropout": (0.4, program),
    "model.attention_dropout": (0.4, program),
    "model.attention": ("cudnn", program),
    "model.remat": ("full", program),
    "model.scan_unroll": (1, program),
    "optimizer.name": ("lamb", program),
    "optimizer.learning_rate": (1e-4, members),
    **dict.fromkeys(("optimizer.weight_decay", "schedule.warmup_ratio"), (0.7, members)),
    "schedule.warmup_steps": (3, members),
    **{f"optimizer.{name}": (0.3, program) for name in ("beta1", "beta2", "eps", "clip_norm", "layer_decay")},
    "average.decay": (0.9, program),
    "schedule.name": ("cosine", program),
    **dict.fromkeys(("mesh.replica", "mesh.zero1", "mesh.fsdp", "mesh.tensor"), (2, mesh)),
    "mesh.data": (4, mesh),
    **dict.fromkeys(("log.every", "eval.every", "checkpoint.every", "checkpoint.keep"), (2, files)),
    "log.profile_steps": (1, files),
    "eval.batch": (16, evaluated_at_once),
    "eval.metric": ("loss", examples),
    "eval.patience": (1, files),
    "eval.restore_best": (False, files),
    "search.learning_rate": ([1e-5, 1e-4], searched),
    "search.global_batch": ([8, 16], searched),
    "search.epochs": ([1, 2], searched),
    **dict.fromkeys(("search.warmup_ratio", "search.weight_decay"), ([0.1, 0.2], searched)),
    "benchmark.tasks": (TWO, tasks),
    "benchmark.from_mnli": (True, tasks),
    "benchmark.tasks[0].task": ("mrpc", tasks),
    "benchmark.tasks[0].epochs": (7, tasks),
    "benchmark.tasks[0].global_batch": (64, tasks),
    "benchmark.tasks[0].learning_rate": (0.5, tasks),
}
"""Every field with another value, and what that changes."""

OWN_FILES = {"columns": ("text", "label"), "pairs": ("text_pair",), "scores": ("regression",)}
NO_RATE = {"optimizer": {"learning_rate": 1e-9}}
BESIDE = {
    "task": {
        "task": "rte",
        "data": {"source": "folder", "path": "{place}/glue", "train": "", "validation": ""},
    },
    "data.validation_share": {"data": {"validation": ""}},
    **{
        f"data.{name}": {"data": dict.fromkeys(("train", "validation"), f"{{place}}/{file}.csv")}
        for file, names in OWN_FILES.items()
        for name in names
    },
    "grad_accum": {"mesh": {"data": 1, "fsdp": -1}, "global_batch": 16},
    "model.remat": {"init_from": "{place}/deep/model"},
    "model.scan_unroll": {"init_from": "{place}/deep/model", "model": {"scan_unroll": 2}},
    "mesh.data": {"mesh": {"data": 8, "fsdp": -1}},
    "eval.patience": {**NO_RATE, "eval": {"every": 1, "batch": 8}},
    "checkpoint.every": {"checkpoint": {"keep": 3}},
    "checkpoint.keep": {"checkpoint": {"every": 1}},
    "benchmark.tasks": GLUE,
    **{
        f"benchmark.{name}": {**GLUE, "benchmark": {"tasks": TWO}}
        for name in ("from_mnli", *(f"tasks[0].{field.name}" for field in dataclasses.fields(BenchmarkTask)))
    },
}
"""What a field needs beside it."""

ELSEWHERE = {
    **dict.fromkeys(("kind", "data.pieces"), "tests/finetune/test_tokens.py"),
    **dict.fromkeys(("data.negative", "data.score", "data.positive_labels"), "tests/data/test_own_pairs.py"),
    **dict.fromkeys(("embedding.pooling", "embedding.temperature"), "tests/finetune/test_embedding.py"),
    **{f"questions.{name}": "tests/finetune/test_questions.py" for name in vars(QuestionsConfig())},
    "data.subset": "tests/data/test_own_hub.py",
    **dict.fromkeys(("on_nonfinite", "max_skipped"), "tests/faults/test_bad_numbers.py"),
    **dict.fromkeys(("init_weights", "model.pooling"), "tests/finetune/test_loading_classifiers.py"),
    "checkpoint.verify": "tests/faults/test_damaged_checkpoints.py",
    "time_limit": "tests/faults/test_watchdog.py",
    **dict.fromkeys(("log.trackers", "log.project"), "tests/pretrain/test_trackers.py"),
    "log.profile_start": "tests/finetune/test_finetuning.py",
    "inference": "tests/finetune/test_finish.py",
    "distributed": "tests/finetune/test_finetune_command.py",
    "compilation_cache": "tests/pretrain/test_settings_unused.py",
    **dict.fromkeys(("card.language", "card.license"), "tests/finetune/test_classifier_card.py"),
    **dict.fromkeys(("data.source", "data.path"), "tests/data/test_labelled_folder.py"),
    **dict.fromkeys(("data.name", "data.revision"), "tests/data/test_labelled_hub.py"),
    "data.data_dir": "tests/data/test_labelled_tfds.py",
    "eval.tests": "tests/finetune/test_finish.py",
    **dict.fromkeys(("search.trials", "search.objective"), "tests/finetune/test_search.py"),
    "run_members": "tests/finetune/test_in_turn.py",
}
"""Fields that need data or a whole run of their own: the tests in which they are seen to act."""
REFUSED_HERE = {"model.attention": "config.model.attention=cudnn runs on a GPU"}
"""Fields whose other value is refused here, so that it is not passed over, and what is said."""


def test_every_field_is_shown_to_act():
    leaves = set(Names.of(FinetuneConfig, ()).fields)
    leaves |= {f"benchmark.tasks[0].{field.name}" for field in dataclasses.fields(BenchmarkTask)}
    assert {*ACTS, *ELSEWHERE} == leaves
    assert not_mentioned(ELSEWHERE) == {}


@pytest.mark.parametrize("path", ACTS)
def test_a_field_acts(place, path):
    value, seen = ACTS[path]
    lengths = {"lengths": []} if seen is examples else {}
    before = tiny_finetune(place, **lengths, **placed(BESIDE.get(path, {}), place))
    after = with_field(before, path, placed(value, place))
    assert before != after

    seen_before = look(seen, before, place)
    if path in REFUSED_HERE:
        with pytest.raises(UserError, match=REFUSED_HERE[path]):
            look(seen, after, place)
    else:
        assert seen_before != look(seen, after, place)


@functools.cache
def look(seen, config, place):
    """What is seen of a config; once, as many fields change the same one."""
    return seen(config, place)


# ---- what is refused ---------------------------------------------------------------------------------------------

RECIPE = """import ml_collections
def get_config():
    return ml_collections.ConfigDict({'init_from': 'x', **%s})
"""
FILES, GLUE_HUB = "data.source=files", "data.source=hub task=rte"
REFUSED = {
    "optimizer.learning_rate=2e-5": "learning_rates=1e-5",
    "epochs=4": "steps=9",
    "schedule.warmup_ratio=0.3": "schedule.warmup_steps=9",
    "search.warmup_ratio=(0.1,0.2)": "search.trials=3 schedule.warmup_steps=9",
    "average.decay=0.9": "eval.restore_best=false",
    "optimizer.beta1=0.5": "optimizer.name=adafactor",
    "optimizer.beta2=0.5": "optimizer.name=adafactor",
    "optimizer.eps=0.5": "optimizer.name=adafactor",
    "label_smoothing=0.1": f"{FILES} data.regression=true",
    "label_smoothing=0.2": "data.source=hub data.name=x data.regression=true",
    **{f"data.{name}=x": FILES for name in ("path", "name", "revision", "data_dir")},
    **{f"data.{name}=x": GLUE_HUB for name in ("train", "text", "text_pair", "label_names", "subset")},
    "data.validation=x": "data.source=tfds",
    "data.validation_share=0.1": "data.source=hub task=rte",
    "data.validation_share=0.3": f"{FILES} data.validation=x",
    "data.test=x": f"{FILES} eval.tests=false",
    "data.label=x": "data.source=folder",
    "data.regression=true": "data.source=hub task=rte",
    "data.pieces=all": "kind=sequence",
    "data.text_pair=y": f"{FILES} kind=tokens",
    **{f"{name}=cls": "kind=sequence" for name in ("data.negative", "data.score", "embedding.pooling")},
    "data.positive_labels=yes": "kind=sequence",
    "search.learning_rate=(1e-5,1e-4)": "search.trials=0",
    "search.objective=loss": "search.trials=0",
    "optimizer.weight_decay=0.1": "search.trials=3 search.weight_decay=(0.1,0.2)",
    "global_batch=64": "search.trials=3 search.global_batch=(8,16)",
    "benchmark.from_mnli=true": "task=rte",
}
"""Fields that have no effect beside others: both on the command line."""


def given(tmp_path, recipe, line, unused=unused_fields):
    file = tmp_path / "recipe.py"
    file.write_text(RECIPE % recipe)
    overrides = [f"--config.{each}" for each in line]
    return read(FinetuneConfig, ["x", f"--config={file}", *overrides], lambda values: None, unused=unused)


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_could_not_act_is_refused(tmp_path, field):
    with pytest.raises(UserError) as error:
        given(tmp_path, {}, [*REFUSED[field].split(), field])
    assert str(error.value).startswith(f"config.{field.partition('=')[0]}=")
    assert " has no effect: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("epochs", "epochs", 7),
        ("global_batch", "global_batch", 64),
        ("learning_rate", "optimizer.learning_rate", 0.5),
    ],
)
def test_a_field_that_every_task_replaces_is_refused_and_one_that_some_replace_acts(
    tmp_path, name, path, value
):
    for own, refused in (({name: value}, True), ({}, False)):
        recipe = {"benchmark": {"tasks": [{"task": "rte", name: value}, {"task": "cola", **own}]}}
        if refused:
            with pytest.raises(UserError, match="every task has its own"):
                given(tmp_path, recipe, [f"{path}={value}"])
        else:
            given(tmp_path, recipe, [f"{path}={value}"])


def test_a_learning_rate_beside_the_recipes_several_is_refused_and_the_recipes_one_gives_way(tmp_path):
    with pytest.raises(UserError, match=r"config\.learning_rates=\[1e-05, 2e-05\] is trained in its place"):
        given(tmp_path, {"learning_rates": (1e-5, 2e-5)}, ["optimizer.learning_rate=1e-4"])
    line = given(tmp_path, {"optimizer": {"learning_rate": 1e-4}}, ["learning_rates=1e-5"])
    assert (line.config.optimizer.learning_rate, len(line.given.notes)) == (2e-5, 1)


def test_a_recipes_share_to_hold_out_gives_way_to_other_examples_to_evaluate_on(tmp_path):
    recipe = {"data": {"source": "files", "train": "a.csv", "validation_share": 0.2}}
    for line, instead in (
        (["data.validation=b.csv"], "config.data.validation is evaluated on, so nothing is held out"),
        (["data.source=hub", "data.train=", "task=rte"], "config.data.source='hub' does not read it"),
    ):
        found = given(tmp_path, recipe, line)
        assert found.config.data.validation_share == 0.1
        assert (
            f"without effect in the recipe: config.data.validation_share=0.2; {instead}" in found.given.notes
        )


def test_an_evaluation_refuses_what_only_training_reads(tmp_path):
    recipe = {"optimizer": {"learning_rate": 1e-4}, "task": "rte"}
    assert given(tmp_path, recipe, ["eval.batch=8"], unused_in_evaluation).given.notes == ()
    refused = (
        "optimizer.learning_rate=1 max_length=64 seed=3 init_from=y eval.every=3 data.validation_share=0.2"
    )
    for field in refused.split():
        with pytest.raises(UserError, match="has no effect: nothing is trained here"):
            given(tmp_path, recipe, [field], unused_in_evaluation)


def test_an_evaluation_of_a_data_set_of_the_hub_may_hold_examples_out(tmp_path):
    given(tmp_path, {}, ["data.source=hub", "data.name=x", "data.validation_share=0.2"], unused_in_evaluation)


def test_an_evaluation_refuses_a_test_file_and_names_the_field_that_is_evaluated_on(tmp_path):
    recipe = {"data": {"source": "files", "test": "recipe.csv"}}
    assert given(tmp_path, recipe, [], unused_in_evaluation).config.data.test == ""
    with pytest.raises(UserError, match=r"no effect: .* config\.data\.validation; name the file there"):
        given(tmp_path, recipe, ["data.test=test.csv"], unused_in_evaluation)
