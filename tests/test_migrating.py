"""docs/migrating.md leaves out no flag of the scripts it starts from, and names only what there is here."""

import contextlib
import importlib
import re
import shlex
from pathlib import Path

import pytest
import transformers

from base.command_line import describe, parse
from base.tpu_types import tpu_slice
from data.config import SourceConfig
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/migrating.md").read_text()
LAST = "Not offered"
NOT_NEEDED, NOT_OFFERED = "not needed", "not offered"

RUN_GLUE = """
    task_name dataset_name dataset_config_name max_seq_length overwrite_cache pad_to_max_length max_train_samples
    max_eval_samples max_predict_samples train_file validation_file test_file model_name_or_path config_name
    tokenizer_name cache_dir use_fast_tokenizer model_revision token use_auth_token trust_remote_code
    ignore_mismatched_sizes
"""
TRAINING_ARGUMENTS = """
    output_dir overwrite_output_dir do_train do_eval do_predict eval_strategy prediction_loss_only
    per_device_train_batch_size per_device_eval_batch_size per_gpu_train_batch_size per_gpu_eval_batch_size
    gradient_accumulation_steps eval_accumulation_steps eval_delay torch_empty_cache_steps learning_rate weight_decay
    adam_beta1 adam_beta2 adam_epsilon max_grad_norm num_train_epochs max_steps lr_scheduler_type lr_scheduler_kwargs
    warmup_ratio warmup_steps log_level log_level_replica log_on_each_node logging_dir logging_strategy
    logging_first_step logging_steps logging_nan_inf_filter save_strategy save_steps save_total_limit save_safetensors
    save_on_each_node save_only_model restore_callback_states_from_checkpoint no_cuda use_cpu use_mps_device seed
    data_seed jit_mode_eval bf16 fp16 fp16_opt_level half_precision_backend bf16_full_eval fp16_full_eval tf32
    local_rank ddp_backend tpu_num_cores tpu_metrics_debug debug dataloader_drop_last eval_steps
    dataloader_num_workers dataloader_prefetch_factor past_index run_name disable_tqdm remove_unused_columns
    label_names load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip fsdp
    fsdp_min_num_params fsdp_config fsdp_transformer_layer_cls_to_wrap accelerator_config parallelism_config deepspeed
    label_smoothing_factor optim optim_args adafactor group_by_length length_column_name report_to project
    trackio_space_id ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers dataloader_pin_memory
    dataloader_persistent_workers skip_memory_metrics use_legacy_prediction_loop push_to_hub resume_from_checkpoint
    hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision gradient_checkpointing
    gradient_checkpointing_kwargs include_inputs_for_metrics include_for_metrics eval_do_concat_batches fp16_backend
    push_to_hub_model_id push_to_hub_organization push_to_hub_token mp_parameters auto_find_batch_size
    full_determinism torchdynamo ray_scope ddp_timeout torch_compile torch_compile_backend torch_compile_mode
    include_tokens_per_second include_num_input_tokens_seen neftune_noise_alpha optim_target_modules
    batch_eval_metrics eval_on_start use_liger_kernel liger_kernel_config eval_use_gather_object
    average_tokens_across_devices
"""
SOURCES = {
    # The snippets of examples/flax/language-modeling/README.md, then the script of transformers 4.40.
    "run_mlm_flax": """
        load_dataset ByteLevelBPETokenizer batch_iterator train_from_iterator vocab_size min_frequency special_tokens
        tokenizer.save RobertaConfig.from_pretrained config.save_pretrained
        output_dir overwrite_output_dir do_train do_eval per_device_train_batch_size per_device_eval_batch_size
        learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon adafactor num_train_epochs warmup_steps
        logging_steps save_steps eval_steps seed push_to_hub hub_model_id hub_token gradient_checkpointing
        model_name_or_path model_type config_name tokenizer_name cache_dir use_fast_tokenizer dtype token
        use_auth_token trust_remote_code dataset_name dataset_config_name train_file validation_file train_ref_file
        validation_ref_file overwrite_cache validation_split_percentage max_seq_length preprocessing_num_workers
        mlm_probability pad_to_max_length line_by_line
    """,
    # Of transformers 5, beside the arguments of run_mlm_flax, and the TrainingArguments of that table.
    "run_mlm and run_mlm_no_trainer": """
        config_overrides model_revision low_cpu_mem_usage streaming max_train_samples max_eval_samples max_steps
        gradient_accumulation_steps bf16 fp16 lr_scheduler_type warmup_ratio max_grad_norm optim save_total_limit
        resume_from_checkpoint load_best_model_at_end report_to
        max_train_steps num_warmup_steps checkpointing_steps with_tracking
    """,
    # Of transformers 4.40, with the TrainingArguments that it reads, and the names of 4.6.
    "run_flax_glue": """
        model_name_or_path config_name tokenizer_name use_slow_tokenizer cache_dir model_revision token use_auth_token
        trust_remote_code task_name dataset_config_name train_file validation_file test_file text_column_name
        label_column_name overwrite_cache preprocessing_num_workers max_seq_length max_train_samples max_eval_samples
        max_predict_samples output_dir num_train_epochs seed per_device_train_batch_size per_device_eval_batch_size
        learning_rate weight_decay warmup_steps logging_steps eval_steps save_steps push_to_hub hub_model_id hub_token
        max_length num_warmup_steps max_train_steps
    """,
    "run_glue": RUN_GLUE,
    # Of transformers 4.57, those that 5.23 adds, and what earlier ones had.
    "TrainingArguments": TRAINING_ARGUMENTS
    + """
        activation_checkpointing activation_checkpointing_kwargs use_cache trackio_bucket_id trackio_static_space_id
        enable_jit_checkpoint dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy
        ddp_static_graph
        evaluation_strategy evaluate_during_training sharded_ddp xpu_backend use_ipex dispatch_batches split_batches
    """,
    "run_glue_no_trainer": """
        task_name train_file validation_file max_length pad_to_max_length model_name_or_path use_slow_tokenizer
        per_device_train_batch_size per_device_eval_batch_size learning_rate weight_decay num_train_epochs
        max_train_steps gradient_accumulation_steps lr_scheduler_type num_warmup_steps output_dir seed push_to_hub
        hub_model_id hub_token trust_remote_code checkpointing_steps resume_from_checkpoint with_tracking report_to
        ignore_mismatched_sizes
    """,
    # run_tf_glue and run_tf_text_classification of 4.0; run_glue and run_text_classification of 4.40.
    "run_tf_glue and run_tf_text_classification": """
        task_name data_dir max_seq_length overwrite_cache model_name_or_path config_name tokenizer_name use_fast
        cache_dir label_column_id train_file dev_file test_file predict_file pad_to_max_length max_train_samples
        max_eval_samples max_predict_samples use_fast_tokenizer model_revision token use_auth_token trust_remote_code
        validation_file max_val_samples max_test_samples tpu_name tpu_zone gcp_project poly_power xla fp16
    """,
    # What Optimum 1.23 has beside run_glue's and TrainingArguments.
    "Optimum's run_glue": """
        inference_with_ort optim use_module_with_loss save_onnx onnx_prefix onnx_log_level feature torchrun
    """,
    "The text-classification notebook": """
        task model_checkpoint batch_size notebook_login send_example_telemetry load_dataset load_metric
        show_random_elements AutoTokenizer.from_pretrained preprocess_function truncation dataset.map
        load_from_cache_file num_labels AutoModelForSequenceClassification.from_pretrained output_dir
        evaluation_strategy save_strategy learning_rate per_device_train_batch_size per_device_eval_batch_size
        num_train_epochs weight_decay load_best_model_at_end metric_for_best_model push_to_hub hub_model_id
        compute_metrics validation_key train_dataset eval_dataset tokenizer data_collator trainer.train
        trainer.evaluate trainer.push_to_hub model_init hyperparameter_search n_trials direction compute_objective
        hp_space backend shard best_run hyperparameters
    """,
}
"""The flags of each source, by the page's headings: those of the dataclasses and parsers in its public code."""


def section(heading: str) -> str:
    """The text under a heading of the second level."""
    return PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of its table's rows: theirs, ours, note; without the rows that only head a group."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not row[0].startswith("**")]


def stage_of(heading: str) -> str:
    """The command that takes the place of a source."""
    return "pretrain" if heading.startswith("run_mlm") else "finetune"


def quoted(cell: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def theirs(row: list[str]) -> list[str]:
    """The flags of a row."""
    return [name.removeprefix("--") for name in quoted(row[0])]


ROWS = [(heading, row) for heading in SOURCES for row in rows(heading)]


@pytest.mark.parametrize("heading", SOURCES)
def test_no_flag_of_a_source_is_left_out(heading):
    there = {name for row in rows(heading) for name in theirs(row)}
    assert set(SOURCES[heading].split()) - there == set()


@pytest.mark.parametrize("heading", SOURCES)
def test_a_flag_has_one_row(heading):
    there = [name for row in rows(heading) for name in theirs(row)]
    assert [name for name in there if there.count(name) > 1] == []


def test_every_row_says_what_is_ours():
    for heading, row in ROWS:
        assert len(row) == 3, (heading, row)
        assert row[1] in (NOT_NEEDED, NOT_OFFERED) or quoted(row[1]), (heading, row)


@pytest.mark.parametrize("heading", SOURCES)
def test_fields_are_those_of_the_stage(heading):
    if stage_of(heading) == "pretrain":
        lines = describe(PretrainConfig) + describe(SourceConfig, "config.data.eval_source")
    else:
        lines = describe(FinetuneConfig)
    leaves = {line.split("=", 1)[0] for line in lines}
    groups = {leaf.rpartition(".")[0] for leaf in leaves}
    names = {name.partition("=")[0] for row in rows(heading) for cell in row[1:] for name in quoted(cell)}
    assert {name for name in names if name.startswith("config.")} - leaves - groups == set()


@pytest.mark.parametrize("heading", SOURCES)
def test_values_of_fields_can_be_set(heading):
    for row in rows(heading):
        for name in quoted(row[1]) + quoted(row[2]):
            if re.fullmatch(r"config\.[\w.]+=.*", name):
                check_command(["python", "-m", stage_of(heading), f"--{name}"], set())


def test_commands_and_flags_are_there(capsys):
    blocks = re.findall(r"^    (python -m (?:.*\\\n)*.*)", PAGE, re.MULTILINE)
    cells = [name for _, row in ROWS for cell in row[1:] for name in quoted(cell)]
    commands = [shlex.split(text.replace("\\\n", " ")) for text in blocks + cells if "python -m" in text]
    alone = [
        ["python", "-m", stage_of(heading), name]
        for heading, row in ROWS
        for name in quoted(row[1])
        if name.startswith("--")
    ]
    assert len(commands) > len(SOURCES) and alone
    known = {command[2]: flags_of(command[2], capsys) for command in commands + alone}
    for command in commands + alone:
        check_command(command, known[command[2]])


def test_the_recipe_holds_the_values_of_the_example_that_it_takes_the_place_of():
    """Every number of the example's command, as a field by the page's table, changes nothing in the recipe."""
    command = re.search(r"python run_mlm_flax\.py (.*?)\n\n", PAGE, re.DOTALL)[1].replace("\\\n", " ")
    flags = [word.removeprefix("--").partition("=")[::2] for word in shlex.split(command)]
    fields = {name: quoted(row[1]) for row in rows("run_mlm_flax") for name in theirs(row)}
    numbers = {
        name: float(value) for name, value in flags if re.fullmatch(r"[\d.e-]+", value) and fields[name]
    }
    numbers["per_device_train_batch_size"] *= tpu_slice("v3-8").devices
    assert len(numbers) == 8
    recipe = ["pretrain", f"--config={ROOT / 'configs/roberta_base_oscar_no.py'}"]
    overrides = [f"--{fields[name][0]}={value:g}" for name, value in numbers.items()]
    config, _ = parse(PretrainConfig, recipe, lambda values: None)
    assert parse(PretrainConfig, [*recipe, *overrides], lambda values: None)[0] == config
    example = transformers.RobertaConfig()  # what `create_config.py` starts from
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        assert getattr(config.model, name) == getattr(example, name)
    assert config.tokenizer.vocab_size == example.vocab_size


def test_what_is_not_offered_is_gathered_at_the_end():
    said = {name for _, row in ROWS if row[1] == NOT_OFFERED for name in theirs(row)}
    gathered = {name.removeprefix("--") for name in quoted(section(LAST))}
    assert gathered == said


def flags_of(module: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The flags that a command's --help tells of."""
    found = importlib.import_module(f"{module}.__main__" if "." not in module else module)
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        found.main([f"{module.replace('.', '/')}.py", "--help"])
    return set(re.findall(r"(?m)^\s+(--\w+)", capsys.readouterr().out)) | {"--config"}


def check_command(command: list[str], flags: set[str]) -> None:
    """The command's flags are known, and its overrides are fields that take their values."""
    python, _, module, *arguments = command
    assert python == "python"
    overrides = [argument for argument in arguments if argument.startswith("--config.")]
    others = [argument.partition("=")[0] for argument in arguments if argument not in overrides]
    assert {name for name in others if name.startswith("--")} <= flags, command
    given = next((name for name in arguments if name.startswith("--config=")), "")
    recipe = given.removeprefix("--config=").partition(":")[0]
    if not (ROOT / recipe).is_file():  # a recipe that a command writes
        assert recipe in ("", "WORKDIR/search/best.py"), command
        recipe = "configs/debug.py" if module == "pretrain" else "configs/glue.py"
    if overrides:
        schema = PretrainConfig if module == "pretrain" else FinetuneConfig
        parse(schema, [module, f"--config={ROOT / recipe}", *overrides], lambda values: None)
