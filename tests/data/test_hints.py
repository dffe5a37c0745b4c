"""Names of other scripts lead to ours, in each stage to its own; a misspelt name leads to the nearest."""

import re

import pytest

from base.errors import UserError
from base.schema import build
from base.suggestions import NOT_NEEDED, Names, unknown_field, unknown_flag
from data.prepare.__main__ import PrepareRunConfig
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from tests.test_migrating import ROWS, quoted, stage_of, theirs

STAGES = {
    "pretrain": Names.of(PretrainConfig, ["workdir", "accept_changes", "push_every"]),
    "finetune": Names.of(FinetuneConfig, ["workdir", "push_to_hub", "push_every", "public"]),
}
FILES = "data.source=files --config.data"
COMMANDS = {
    "evaluate": Names.of(FinetuneConfig, ["model", "out"]),
    "predict": Names((), ("model", "file", "out", "batch", "max_length")),
    "export": Names((), ("workdir", "out", "step")),
}


@pytest.mark.parametrize(
    ("name", "pretrain", "finetune"),
    [
        ("lr", "optimizer.learning_rate", "optimizer.learning_rate"),
        ("batch_size", "global_batch", "global_batch"),
        ("per_device_train_batch_size", "global_batch", "global_batch"),
        ("num_train_epochs", "epochs", "epochs"),
        ("max_seq_length", "seq_len", "max_length"),
        ("max_length", "seq_len", None),
        ("warmup_ratio", "schedule.warmup_steps", "schedule.warmup_ratio"),
        ("mlm_probability", "masking.rate", None),
        ("text_column", "data.text_field", "data.text"),
        ("model_name_or_path", "init_from", "init_from"),
        ("train_file", "data.source=files --config.data.path", "data.source=files --config.data.train"),
        (
            "validation_file",
            "data.eval_source.source=files --config.data.eval_source.path",
            "data.validation",
        ),
        ("fp16", "dtype=bfloat16", "dtype=bfloat16"),
        ("bf16", "dtype=bfloat16", "dtype=bfloat16"),
        ("gradient_accumulation_steps", "grad_accum", "grad_accum"),
        ("logging_steps", "log.every", "log.every"),
        ("save_steps", "checkpoint.every", "checkpoint.every"),
        ("evaluation_strategy", "eval.every", "eval.every"),
        ("seed", "seed", "seed"),
        ("hidden_dropout_prob", "model.hidden_dropout_prob", "model.dropout"),
        ("eval_fraction", "data.eval_fraction", "data.validation_share"),
        ("data.eval_fraction", "data.eval_fraction", "data.validation_share"),
        ("data.val_fraction", "data.eval_fraction", "data.validation_share"),
        ("test_size", "data.eval_fraction", "data.validation_share"),
        ("batch", "global_batch", "global_batch"),
        ("batchsize", "global_batch", "global_batch"),
        ("per_device_batch_size", "global_batch", "global_batch"),
        ("data_dir", f"{FILES}.path", f"{FILES}.train"),
        ("data_file", f"{FILES}.path", f"{FILES}.train"),
        ("data.data_dir", "data.data_dir", "data.data_dir"),
        ("data.train", f"{FILES}.path", "data.train"),
        ("input_file", f"{FILES}.path", f"{FILES}.train"),
        ("corpus", f"{FILES}.path", f"{FILES}.train"),
        ("test_file", "data.eval_source.source=files --config.data.eval_source.path", "data.test"),
        ("tokenizer.path", "tokenizer.path", "init_from"),
        ("lr_decay", "schedule.name", "schedule.name"),
        ("model", "init_from", "init_from"),
        ("model_path", "init_from", "init_from"),
        ("pretrained_model_name_or_path", "init_from", "init_from"),
        ("onnx", None, "inference=onnx"),
        ("problem_type", None, "data.regression"),
        ("data.dev", None, "data.validation"),
        ("data.val", None, "data.validation"),
        ("data.eval", None, "data.validation"),
        ("context_length", "seq_len", "max_length"),
        ("n_embd", "model.hidden_size", None),
    ],
)
def test_a_name_of_other_scripts_leads_to_ours(name, pretrain, finetune):
    for stage, field in (("pretrain", pretrain), ("finetune", finetune)):
        if field is not None:
            message = unknown_flag(name, STAGES[stage])
            assert message == f"--{name} is not a flag; did you mean --config.{field}?"


@pytest.mark.parametrize("name", ["data.eval_fraction", "data.dev", "data.eval", "tokenizer.path"])
def test_a_name_in_a_group_leads_to_ours_as_a_field_too(name):
    meant = {"data.eval_fraction": "data.validation_share", "tokenizer.path": "init_from"}
    hint = f"did you mean config.{meant.get(name, 'data.validation')}?"
    assert unknown_field(f"config.{name}", ["text", "validation"], STAGES["finetune"]).endswith(hint)


@pytest.mark.parametrize(
    ("command", "name", "flag"),
    [
        ("evaluate", "workdir", "model"),
        ("evaluate", "model_name_or_path", "model"),
        ("predict", "workdir", "model"),
        ("predict", "per_device_batch_size", "batch"),
        ("export", "model", "workdir"),
        ("export", "model_path", "workdir"),
    ],
)
def test_a_model_is_named_by_the_flag_that_the_command_has(command, name, flag):
    message = unknown_flag(name, COMMANDS[command])
    assert message == f"--{name} is not a flag; did you mean --{flag}?"


@pytest.mark.parametrize(
    ("heading", "row"), ROWS, ids=lambda part: part if isinstance(part, str) else part[0]
)
def test_what_the_page_says_of_a_flag_is_what_the_hint_says(heading, row):
    ours = {name.partition("=")[0] for name in quoted(row[1]) if name.startswith(("config.", "--"))}
    flags = [name for name in theirs(row) if quoted(row[0])[0].startswith("--")]
    for name in flags if ours else []:
        names = STAGES[stage_of(heading)]
        if name in (*names.fields, *names.flags):
            continue
        message = unknown_flag(name, names)
        found = {f"config.{field}" for field in re.findall(r"--config\.([\w.]+)", message)}
        found |= {f"--{flag}" for flag in re.findall(r"--(\w+)[?]", message)}
        assert found & {*ours, *(each for each in ours if each.startswith("--"))}, (name, message, ours)


def test_a_field_is_guessed_by_its_meaning_then_by_its_name_then_by_its_spelling():
    names = STAGES["pretrain"]
    for path, siblings, hint in (
        ("config.optimizer.lr", ["learning_rate", "name"], "did you mean config.optimizer.learning_rate?"),
        ("config.warmup_steps", ["steps"], "did you mean config.schedule.warmup_steps?"),
        (
            "config.every",
            ["eval"],
            "did you mean config.log.every, config.eval.every or config.checkpoint.every?",
        ),
        ("config.stepz", ["steps"], "did you mean 'steps'?"),
        ("config.model.leanring_rate", ["remat"], "did you mean config.optimizer.learning_rate?"),
        ("config.train_fil", ["seed"], "did you mean config.data.source=files and config.data.path?"),
    ):
        assert unknown_field(path, siblings, names) == f"{path} is not a field; {hint}"


def test_what_is_not_needed_is_left_out_and_the_unknown_lists_no_fields():
    names = STAGES["finetune"]
    message = unknown_flag("do_train", names)
    assert message == f"--do_train is not a flag; leave it out: {NOT_NEEDED['do_train']}"
    message = unknown_field("config.zebra", ["steps"], names)
    assert message.endswith(
        "--help lists the flags and fields there are (docs/migrating.md has those of other scripts)"
    )
    alone = Names((), ("workdir", "out"))
    assert unknown_flag("ot", alone) == "--ot is not a flag; did you mean --out?"
    assert unknown_flag("zebra", alone) == "--zebra is not a flag; there are --workdir, --out"


def test_a_field_of_a_preparation_is_pointed_out_in_other_commands_and_spelled_out_in_its_own():
    elsewhere = "is for `python -m data.prepare`; leave it out"
    for names in (None, STAGES["pretrain"]):
        assert unknown_field("config.prepare", ["data", "steps"], names) == f"config.prepare {elsewhere}"
    message = unknown_field("config.prepare.steps", ["data", "steps"], STAGES["pretrain"])
    assert message == f"config.prepare.steps {elsewhere}"
    with pytest.raises(UserError, match=r"config.prepare.shard is not a field; did you mean 'shards'\?"):
        build(PrepareRunConfig, {"prepare": {"shard": 3}})
    assert elsewhere not in unknown_field("config.prepared", ["data"])
