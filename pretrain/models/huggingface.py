"""To and from the Hugging Face ecosystem: config.json and model.safetensors, in folders, buckets and on the hub.

No transformers class is imported: names and layouts are `pretrain.models.tensor_names`, files of weights are
`pretrain.models.weight_files`.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from base import hub_errors, hub_ids
from base.errors import UserError
from base.hub_patience import patiently, tell
from base.json_files import json_object
from data.special_tokens import SpecialTokens
from pretrain.config import ModelConfig
from pretrain.models import EncoderConfig, Params, families, family_fields
from pretrain.models.families.family import Family
from pretrain.models.layers import ACTIVATIONS
from pretrain.models.tensor_names import as_stored, from_state_dict, to_state_dict
from pretrain.models.weight_files import (
    CONFIG,
    PATTERNS,
    TORCH_PATTERNS,
    WEIGHTS,
    check_torch,
    has_weights,
    read_weights,
    write_weights,
)
from tokenizer.load import load as load_tokenizer

logger = logging.getLogger(__name__)

OURS = "config.model"
"""The place of a network's fields, for messages, if no config.json describes it."""

# Fields of config.json of which only one value is supported; any other value makes another network.
_FIXED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
}

_OPTIONAL_IDS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def encoder_config(
    model: ModelConfig, vocab_size: int, special: SpecialTokens, *, network: EncoderConfig | None = None
) -> EncoderConfig:
    """The network that a run's config and tokenizer ask for.

    Args:
      model: the config. If it names a config_file, that file determines the network. It also determines the dropout
        rates that the config does not set.
      vocab_size: tokens of the tokenizer.
      special: its special tokens.
      network: the network, if it is not just as the config_file describes it.

    Raises:
      UserError: fields that do not fit each other or the tokenizer.
    """
    if model.config_file:
        resolved = network or parse_config(read_config(model.config_file), model.config_file)
        with _placed(model.config_file):
            resolved.require_masked_lm()
        source = f"{model.config_file} (config.model.config_file)"
        remedy = (
            f"set config.tokenizer.vocab_size={resolved.vocab_size} or less, or config.tokenizer.path to the tokenizer "
            "that belongs to it"
        )
    else:
        values = family_fields.config_json(model, family_fields.special_ids(special)) | {
            "vocab_size": model.vocab_size or vocab_size
        }
        resolved = parse_config(values, OURS)
        source = OURS
        remedy = "make it that or more (config.model.vocab_size=0 takes the tokenizer's size)"
    if resolved.vocab_size < vocab_size:
        raise UserError(
            f"{source} has vocab_size={resolved.vocab_size}, but the tokenizer has {vocab_size} tokens; {remedy}"
        )
    if resolved.pad_token_id != special.pad:
        raise UserError(
            f"{source} has pad_token_id={resolved.pad_token_id}, but the tokenizer's padding token is {special.pad};"
            " take a config.json and a tokenizer (config.tokenizer.path) that belong together"
        )
    rates: dict[str, Any] = {}
    if model.attention_probs_dropout_prob is not None:
        rates["attention_probs_dropout_prob"] = model.attention_probs_dropout_prob
    with _placed(OURS):
        if model.hidden_dropout_prob is not None:
            resolved = resolved.with_hidden_dropout(model.hidden_dropout_prob)
        return dataclasses.replace(
            resolved,
            **rates,
            vocab_multiple=model.vocab_multiple,
            attention=model.attention,
            remat=model.remat,
            scan_unroll=model.scan_unroll,
            narrow_layers=model.narrow_layers,
            dropout_bits=model.dropout_bits,
            position_init=model.position_init,
        )


def parse_config(values: Mapping[str, Any], where: str) -> EncoderConfig:
    """The network that a transformers config.json describes.

    Args:
      values: its contents; a field left out takes transformers' default for its model_type.
      where: the file, for messages.

    Raises:
      UserError: a model_type, or a value of a field, that this project does not have.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in families.names():
        raise UserError(f"{where} has model_type={model_type!r}; known are {', '.join(families.names())}")
    family = families.get(model_type)
    for name, value in _FIXED.items():
        if values.get(name, value) not in (value, None):
            raise UserError(f"{where} has {name}={values[name]!r}; only {value!r} is known")
    values = _without_aliases(family, values, where)
    values = {name: value for name, value in values.items() if value is not None or name not in family.nulls}
    fields = {
        name: checked(values, family.key(name), default, where)
        for name, default in {**family.defaults, **family.own_defaults}.items()
    }
    if fields["hidden_act"] not in ACTIVATIONS:
        raise UserError(
            f"{where} has {family.key('hidden_act')}={fields['hidden_act']!r}; known are {', '.join(ACTIVATIONS)}"
        )
    with _placed(where):
        resolved = family.resolve(fields, values)
        return EncoderConfig(model_type=model_type, **resolved, **family.constants)


def _without_aliases(family: Family, values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A config.json with one name for each field that transformers accepts under two names."""
    given = dict(values)
    for alias in family.aliases & set(values):
        key, value = family.key(alias), given.pop(alias)
        if given.setdefault(key, value) != value:
            raise UserError(
                f"{where} has {alias}={value!r} and {key}={given[key]!r}, which are the same field"
            )
    return given


@contextlib.contextmanager
def _placed(where: str) -> Iterator[None]:
    """Add the place of a wrong field to its UserError: `config.model`, or a file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{'.' if where == OURS else ': '}{error}") from error


def checked(values: Mapping[str, Any], key: str, default: Any, where: str) -> Any:
    """A field of a config.json, which must have the type of its default; the default if the field is missing.

    Args:
      values: the file's contents.
      key: the field's name; a bos, eos, cls or sep id may be a list or missing.
      default: what transformers assumes.
      where: the file, for messages.

    Raises:
      UserError: a value of another type.
    """
    value = values.get(key, default)
    if default is None or key in _OPTIONAL_IDS:
        return value if isinstance(value, int) else None
    wanted = (int, float) if isinstance(default, float) else type(default)
    if value is None:
        raise UserError(
            f"{where}: {key} is null, and should be of type {type(default).__name__}; leave it out for {default!r}"
        )
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise UserError(
            f"{where}: {key}={value!r} should be of type {type(default).__name__}, not {type(value).__name__}"
        )
    return value


def class_names(values: Mapping[str, Any]) -> list[str]:
    """The classes of transformers that a config.json says its model is of; [] where it says none."""
    named = values.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def config_dict(config: EncoderConfig) -> dict[str, Any]:
    """The contents of a transformers config.json for a masked language model of this network.

    Raises:
      UserError: the network can only be fine-tuned; fine-tuning passes the model's own config.json on.
    """
    config.require_masked_lm()
    family = config.family
    fields = {family.key(name): getattr(config, name) for name in family.defaults}
    return {
        "architectures": [f"{family.classes}ForMaskedLM"],
        "model_type": config.model_type,
        "dtype": "float32",
        **family.written(config),
        **{name: value for name, value in fields.items() if value is not None},
    }


def read_config(source: str) -> dict[str, Any]:
    """The contents of a config.json: a file, a folder that holds one, or a model on the hub.

    Raises:
      UserError: there is none, or it is not JSON.
    """
    path = epath.Path(source).expanduser()
    if not path.exists():
        path = download(source, [CONFIG])
    file = path / CONFIG if path.is_dir() else path
    if not file.exists():
        raise UserError(f"{source} has no {CONFIG}")
    return _read_json(file)


def _read_json(file: epath.Path) -> dict[str, Any]:
    try:
        return json_object(file)
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error


@dataclass(frozen=True)
class Published:
    """A model as the Hugging Face ecosystem passes it around."""

    source: str
    """Where it was read: a folder or a hub id."""
    values: dict[str, Any]
    """Its config.json."""
    config: EncoderConfig
    """The network that this describes."""
    state: dict[str, np.ndarray]
    """Its tensors."""


def read_published(source: str | epath.PathLike) -> Published:
    """A model's config.json and tensors, whatever class of transformers it is of.

    Args:
      source: a folder with config.json and model.safetensors (or its shards), local or gs://, or a model's hub id.
        A pytorch_model.bin (or its shards) takes the place of safetensors where torch is installed.

    Raises:
      UserError: nothing there, no weights, a damaged file, or a model_type that this project does not have.
    """
    folder = epath.Path(source).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise UserError(
                f"{source} is a file; a model is a folder that holds {CONFIG} and {WEIGHTS}, or a hub id"
            )
        folder = download_model(str(source), [CONFIG])
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{source} has no {CONFIG}; a model is a folder that holds {CONFIG} and {WEIGHTS}, or a hub id"
        )
    values = _read_json(folder / CONFIG)
    config = parse_config(values, str(folder / CONFIG))
    return Published(str(source), values, config, read_weights(folder, str(source)))


def load_pretrained(source: str | epath.PathLike, *, seed: int = 0) -> tuple[EncoderConfig, Params]:
    """A pretrained masked language model of the families that this project pretrains.

    Args:
      source: a folder with config.json and model.safetensors (or its shards), local or gs://, or a model's hub id.
      seed: of the masked-language-model head that is made where the checkpoint has none (a bare encoder, or another
        task's model), with a warning.

    Returns:
      The network's config, and its params as numpy arrays (float32 whatever the file holds).

    Raises:
      UserError: nothing there, no weights, a damaged file, or tensors that do not fit the config; they are named.
    """
    found = read_published(source)
    with _placed(found.source):
        found.config.require_masked_lm()
    config = as_stored(found.config, found.state, found.source)
    return config, from_state_dict(config, found.state, found.source, seed=seed)


def save_pretrained(
    out: epath.PathLike, config: EncoderConfig, params: Params, tokenizer_dir: epath.PathLike | None = None
) -> None:
    """Write a folder that transformers' AutoModelForMaskedLM (and AutoTokenizer) load; config.json last.

    Args:
      out: the folder, local or gs://, made if need be.
      config: the network.
      params: its params, numpy or jax arrays.
      tokenizer_dir: the tokenizer to save with the model, with the model's length as model_max_length; None saves none.
    """
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer_dir is not None:
        load_tokenizer(str(tokenizer_dir)).save(folder, model_max_length=config.max_length)
    state = to_state_dict(config, params)
    write_weights(folder, state)
    write_config(folder, config_dict(config))


def write_config(folder: epath.Path, values: Mapping[str, Any]) -> None:
    """Write config.json: last, since nothing loads a folder without it."""
    (folder / CONFIG).write_text(json.dumps(dict(values), indent=2) + "\n")


def download_model(hub_id: str, patterns: list[str]) -> epath.Path:
    """The local folder that holds a model on the hub: these files, and its weights.

    Weights in torch's format are fetched only where there are no others, and torch is there to read them.

    Args:
      hub_id: owner/name, possibly with @REVISION.
      patterns: names of files, with wildcards; the first is the one that a message names.

    Raises:
      UserError: as for `download`; weights that cannot be read.
    """
    folder = download(hub_id, [*patterns, *PATTERNS])
    if not has_weights(folder) and (folder / CONFIG).exists():
        check_torch(hub_id)
        folder = download(hub_id, [*patterns, *TORCH_PATTERNS])
    return folder


def download(hub_id: str, patterns: list[str]) -> epath.Path:
    """The local folder that holds these files of a model on the hub.

    Args:
      hub_id: owner/name, possibly with @REVISION.
      patterns: names of files, with wildcards; the first is the one that a message names.

    Raises:
      UserError: no such model, one that may not be read, or no connection.
    """
    name, revision = hub_ids.parted(hub_id)
    if not hub_ids.is_id(name):
        raise UserError(f"there is no {hub_id}; give a folder, or the id of a model on the hub (owner/name)")
    from huggingface_hub import snapshot_download

    tell(logger, hub_id)
    try:
        at: dict[str, Any] = {} if revision is None else {"revision": revision}
        return epath.Path(patiently(lambda: snapshot_download(name, allow_patterns=patterns, **at)))
    except hub_errors.error_types() as error:
        raise hub_errors.of_model(error, hub_id, patterns[0]) from error
