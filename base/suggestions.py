"""Suggestions for a field or a flag that does not exist: first by its meaning in other scripts, then by its spelling.

The known names are those of transformers' TrainingArguments and of its example scripts (docs/migrating.md lists them),
and other common names.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from base.schema import member

MOST = 3
"""Largest number of suggestions in a message."""

# Name in other scripts -> alternatives here. A name with its group (data.train) is looked up before the name alone. An
# alternative is one field or flag, or several that are set together. The first alternative that the command has wins.
MEANINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: alternatives
        for names, alternatives in (
            ("lr peak_lr max_lr learning_rate", ("optimizer.learning_rate",)),
            (
                "batch_size bs batch batchsize train_batch_size per_device_train_batch_size per_gpu_train_batch_size "
                "per_device_batch_size",
                ("global_batch", "batch"),
            ),
            (
                "per_device_eval_batch_size per_gpu_eval_batch_size eval_batch_size",
                ("eval.batch", "eval.steps"),
            ),
            ("num_train_epochs num_epochs epoch n_epochs max_epochs", ("epochs",)),
            ("max_steps max_train_steps num_train_steps num_steps total_steps train_steps", ("steps",)),
            (
                "max_seq_length max_length max_len seq_length sequence_length max_seq_len block_size truncation "
                "context_length context_size",
                ("max_length", "seq_len"),
            ),
            ("seq_len", ("seq_len", "max_length")),
            ("warmup_ratio warmup_proportion", ("schedule.warmup_ratio", "schedule.warmup_steps")),
            ("warmup_steps num_warmup_steps warmup", ("schedule.warmup_steps",)),
            (
                "lr_scheduler_type lr_scheduler scheduler lr_schedule lr_decay lr_decay_style",
                ("schedule.name",),
            ),
            (
                "mlm_probability mlm_prob mask_prob masking_prob mask_rate masking_rate mask_ratio",
                ("masking.rate",),
            ),
            ("wwm whole_word_mask whole_word_masking", ("masking.whole_word",)),
            (
                "text_column text_column_name text_field text_key column content_field",
                ("data.text_field", "data.text"),
            ),
            ("text_pair_column text2 sentence2 text_b", ("data.text_pair",)),
            ("label_column label_column_name label_column_id label_field label_key", ("data.label",)),
            ("label_list labels class_names classes id2label", ("data.label_names",)),
            ("num_labels", ("data.label_names",)),
            (
                "train_file train_files train_data train_dataset data_path train_path data_files data_file data_dir "
                "data.train corpus corpus_path",
                ("data.source=files data.train", "data.source=files data.path"),
            ),
            (
                "validation_file eval_file dev_file valid_file eval_dataset validation_path dev val valid data.eval "
                "data.validation",
                ("data.validation", "data.eval_source.source=files data.eval_source.path"),
            ),
            (
                "test_file predict_file test_path data.test",
                ("data.test", "file", "data.eval_source.source=files data.eval_source.path"),
            ),
            ("dataset dataset_name", ("data.source=hub data.name",)),
            ("dataset_config_name dataset_config language lang", ("data.subset",)),
            (
                "validation_split_percentage eval_split val_split eval_fraction val_fraction validation_fraction "
                "test_size val_size validation_size validation_split validation_share",
                ("data.eval_fraction", "data.validation_share"),
            ),
            ("problem_type", ("data.regression",)),
            ("line_by_line", ("data.packing=lines",)),
            ("shuffle_buffer shuffle_buffer_size buffer_size", ("data.window",)),
            ("max_train_samples shard", ("data.max_train_examples", "steps")),
            ("max_eval_samples max_val_samples", ("data.max_eval_examples", "eval.steps")),
            ("do_eval", ("eval.every",)),
            ("do_predict", ("eval.tests",)),
            ("output_dir out_dir outdir output save_dir log_dir run_dir model_dir", ("workdir", "out")),
            (
                "model model_path model_name_or_path pretrained_model_name_or_path model_name model_checkpoint "
                "pretrained_model checkpoint pretrained init_checkpoint base_model from_pretrained",
                ("model", "init_from", "workdir"),
            ),
            ("workdir", ("workdir", "model")),
            ("model_type architecture arch", ("model.family",)),
            ("config_name", ("model.config_file",)),
            ("tokenizer tokenizer_name tokenizer_path tokenizer.path", ("tokenizer.path", "init_from")),
            ("vocab vocab_size", ("tokenizer.vocab_size",)),
            ("task_name", ("task",)),
            ("fp16 bf16 half mixed_precision precision amp dtype torch_dtype", ("dtype=bfloat16",)),
            ("tf32", ("matmul_precision=default",)),
            ("pad_to_max_length", ("lengths",)),
            ("parallelism_config", ("mesh.data",)),
            ("gradient_accumulation_steps accum_steps grad_accumulation grad_accum_steps", ("grad_accum",)),
            ("gradient_checkpointing activation_checkpointing checkpointing", ("model.remat=true",)),
            ("logging_steps log_steps log_every logging_strategy log_interval", ("log.every",)),
            (
                "save_steps save_every checkpointing_steps save_strategy checkpoint_every save_interval",
                ("checkpoint.every",),
            ),
            ("save_total_limit keep_checkpoints", ("checkpoint.keep",)),
            (
                "eval_steps eval_strategy evaluation_strategy evaluate_during_training eval_every eval_interval",
                ("eval.every",),
            ),
            ("load_best_model_at_end", ("eval.restore_best",)),
            ("metric_for_best_model metric", ("eval.metric",)),
            ("early_stopping early_stopping_patience patience", ("eval.patience",)),
            ("weight_decay wd", ("optimizer.weight_decay",)),
            ("adam_beta1 beta1", ("optimizer.beta1",)),
            ("adam_beta2 beta2", ("optimizer.beta2",)),
            ("adam_epsilon epsilon eps adam_eps", ("optimizer.eps",)),
            ("max_grad_norm grad_clip gradient_clip clip_grad grad_norm clip", ("optimizer.clip_norm",)),
            ("optim optimizer_name", ("optimizer.name",)),
            ("adafactor", ("optimizer.name=adafactor",)),
            ("ema ema_decay average_decay weight_average", ("average.decay",)),
            ("rope_theta rotary_base", ("global_rope_theta",)),
            ("label_smoothing_factor", ("label_smoothing",)),
            ("dropout hidden_dropout", ("model.dropout", "model.hidden_dropout_prob")),
            (
                "attention_dropout attention_probs_dropout_prob",
                ("model.attention_dropout", "model.attention_probs_dropout_prob"),
            ),
            ("hidden_dropout_prob", ("model.hidden_dropout_prob", "model.dropout")),
            ("num_layers n_layers n_layer layers depth", ("model.num_hidden_layers",)),
            ("num_heads n_heads n_head heads", ("model.num_attention_heads",)),
            ("config_overrides", ("model.hidden_size",)),
            ("d_model dim width embed_dim hidden_dim n_embd", ("model.hidden_size",)),
            ("ffn_dim d_ff mlp_dim", ("model.intermediate_size",)),
            ("attn_implementation flash_attention", ("model.attention",)),
            ("random_seed rng_seed", ("seed",)),
            ("report_to with_tracking wandb trackers", ("log.trackers",)),
            ("wandb_project project", ("log.project",)),
            ("num_seeds", ("seeds",)),
            ("lrs", ("learning_rates",)),
            ("fsdp sharded_ddp deepspeed", ("mesh.fsdp",)),
            ("tensor_parallel tp model_parallel", ("mesh.tensor",)),
            ("data_parallel dp", ("mesh.data",)),
            ("push_to_hub hub_model_id push_to_hub_model_id push_to_hub_organization", ("push_to_hub",)),
            ("hub_private_repo", ("public",)),
            ("hub_strategy hub_always_push hub_revision", ("push_every",)),
            ("n_trials trials hyperparameter_search", ("search.trials",)),
            ("onnx save_onnx export_onnx inference_with_ort", ("inference=onnx",)),
            (
                "texts input input_file text_file",
                ("file", "text", "data.source=files data.train", "data.source=files data.path"),
            ),
        )
        for name in names.split()
    }
)

NOT_NEEDED: Mapping[str, str] = MappingProxyType(
    {
        name: why
        for names, why in (
            ("do_train", "the command always trains"),
            ("do_eval", "the model is always evaluated"),
            (
                "overwrite_output_dir resume_from_checkpoint resume",
                "the same command goes on with a --workdir",
            ),
            ("cache_dir", "HF_HOME in the environment moves the hub's cache"),
            ("token hub_token use_auth_token", "HF_TOKEN in the environment is used, or hf auth login"),
            ("trust_remote_code", "nothing that is downloaded is executed"),
            ("logging_dir", "metrics and TensorBoard's files are in the --workdir"),
            ("use_fast_tokenizer", "tokenizers are always fast ones"),
            ("no_cuda use_cpu device", "JAX_PLATFORMS in the environment chooses: cpu, cuda, tpu"),
            (
                "preprocessing_num_workers dataloader_num_workers num_workers n_gpu num_gpus local_rank",
                "all cores and devices are used",
            ),
        )
        for name in names.split()
    }
)


@dataclass(frozen=True)
class Names:
    """The names that a command knows."""

    fields: tuple[str, ...]
    """Paths of the fields of its config, without `config.`."""
    flags: tuple[str, ...]

    @classmethod
    def of(cls, schema: type | None, flags: Iterable[str]) -> "Names":
        """The names of a config's fields and of a command's flags."""
        return cls(tuple(_paths(schema)) if schema else (), tuple(flags))

    def meaning(self, name: str) -> str:
        """The settings here that mean what `name` means in other scripts; '' if there are none.

        Args:
          name: a name, with or without its group (data.train, train).
        """
        whole = name.lower()
        for alternative in MEANINGS.get(whole) or MEANINGS.get(whole.rpartition(".")[2], ()):
            parts = alternative.split()
            if all(part.partition("=")[0] in (*self.fields, *self.flags) for part in parts):
                return " ".join(f"--{part}" if part in self.flags else f"--config.{part}" for part in parts)
        return ""


def unknown_field(path: str, siblings: Sequence[str], names: Names | None = None) -> str:
    """The message for a field that does not exist.

    Args:
      path: the field as it was given, with `config.`.
      siblings: the fields of the group that it was looked for in.
      names: all names that the command knows; None if only the siblings are known.
    """
    in_group = path == "config.prepare" or path.startswith("config.prepare.")
    top = [field.partition(".")[0] for field in names.fields] if names else siblings
    if in_group and "prepare" not in top and (names or path == "config.prepare"):
        return f"{path} is for `python -m data.prepare`; leave it out"
    name = path.rpartition(".")[2].partition("[")[0]
    near = difflib.get_close_matches(name, siblings, n=1)
    if names is None:
        return f"{path} is not a field; " + (
            f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(siblings)}"
        )
    same = [f"config.{field}" for field in names.fields if field.rpartition(".")[2] == name][:MOST]
    meant = _plain(names.meaning(path.removeprefix("config.")))
    if meant:
        hint = f"did you mean {meant}?"
    elif same or near:
        hint = f"did you mean {_either(same) if same else repr(near[0])}?"
    elif name.lower() in NOT_NEEDED:
        hint = f"leave it out: {NOT_NEEDED[name.lower()]}"
    else:
        hint = _by_spelling(name, names)
    return f"{path} is not a field; {hint}"


def unknown_flag(name: str, names: Names) -> str:
    """The message for a flag that does not exist (its name, without dashes)."""
    bare = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, names.flags, n=1, cutoff=0.7)
    alike = [field for field in names.fields if field.rpartition(".")[2] == bare][:MOST]
    same = [f"--config.{field}" for field in ([name] if name in alike else alike)]
    meant = "" if near or name in alike else names.meaning(name)
    if near or meant or same:
        hint = f"did you mean {f'--{near[0]}' if near else meant or _either(same)}?"
    elif bare.lower() in NOT_NEEDED:
        hint = f"leave it out: {NOT_NEEDED[bare.lower()]}"
    else:
        hint = _by_spelling(bare, names, "--")
    return f"--{name} is not a flag; {hint}"


def _by_spelling(name: str, names: Names, dashes: str = "") -> str:
    known = {field.rpartition(".")[2]: f"config.{field}" for field in reversed(names.fields)}
    known |= {flag: flag for flag in names.flags if dashes}
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    if near:
        return f"did you mean {dashes}{known[near[0]]}?"
    theirs = [each for each in MEANINGS if names.meaning(each)]
    if near := difflib.get_close_matches(name.lower(), theirs, n=1, cutoff=0.8):
        return f"did you mean {names.meaning(near[0]) if dashes else _plain(names.meaning(near[0]))}?"
    if names.fields:
        return "--help lists the flags and fields there are (docs/migrating.md has those of other scripts)"
    return f"there are {', '.join(f'--{flag}' for flag in names.flags)}"


def _plain(flags: str) -> str:
    """Change settings from the form of a command line (--config.a) to that of a recipe (config.a)."""
    return flags.replace("--", "", 1).replace(" --", " and ")


def _either(guesses: Sequence[str]) -> str:
    *others, last = guesses
    return f"{', '.join(others)} or {last}" if others else last


def _paths(schema: type, where: str = "") -> Iterator[str]:
    """Paths of the fields of a config, also of optional groups. A list of groups is one path, without its fields."""
    types = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        inner = member(types[field.name])
        if dataclasses.is_dataclass(inner) and typing.get_origin(types[field.name]) is not tuple:
            yield from _paths(typing.cast(type, inner), f"{where}{field.name}.")
        else:
            yield f"{where}{field.name}"
