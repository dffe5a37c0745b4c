"""The files beside an encoder that make its folder one of sentence-transformers: its modules, and their settings.

They are written as releases before 6 wrote them, which later ones, text-embeddings-inference and vLLM read too.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from base.errors import UserError
from base.json_files import json_object, parsed
from finetune.classifier.heads import POOLINGS
from pretrain.models.huggingface import download

MODULES, SETTINGS, TRANSFORMER = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
POOLING = "1_Pooling/config.json"
MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""The library's names of poolings, and the fields by which releases before 6 tell them."""
FOLDER = re.compile(r"[\w-]*")
PACKAGE = "sentence_transformers.models"


@dataclass(frozen=True)
class Pooled:
    """How an encoder's hidden states become the vector of a text."""

    pooling: str = ""
    """mean or cls; '' is not known."""
    normalized: bool = True
    """Whether vectors have norm 1."""
    max_length: int = 0
    """Tokens that texts are cut to; 0 is not known."""
    prompt: str = ""
    """A text that is put before each text."""


def files(pooled: Pooled, width: int) -> dict[str, bytes]:
    """The files of a folder, by their names.

    Args:
      pooled: what they say.
      width: D, of the vectors.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    pooling = {field: mode == pooled.pooling for mode, field in MODES.items()}
    contents: dict[str, Any] = {
        MODULES: [
            {"idx": index, "name": str(index), "path": path, "type": f"{PACKAGE}.{name}"}
            for index, (path, name) in enumerate(modules[: 2 + pooled.normalized])
        ],
        SETTINGS: {
            "__version__": {},
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        TRANSFORMER: {"max_seq_length": pooled.max_length, "do_lower_case": False},
        POOLING: {"word_embedding_dimension": width, **pooling, "include_prompt": True},
    }
    return {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in contents.items()}


def embedder_files(source: str) -> dict[str, Any]:
    """The parsed files of a folder, or of a model on the hub; {} if it is not one of sentence-transformers.

    Raises:
      UserError: a file is damaged.
    """
    folder = epath.Path(source).expanduser()
    if not folder.is_dir():
        if folder.exists():
            return {}
        folder = download(source, ["config.json", MODULES, SETTINGS, TRANSFORMER, "*/config.json"])
    if not (folder / MODULES).exists():
        return {}
    found = {MODULES: _read(folder / MODULES, parsed)}
    settings = [f"{path}/config.json" for path in _paths(found[MODULES], source) if path]
    for name in (SETTINGS, TRANSFORMER, *settings):
        if (folder / name).exists():
            found[name] = _read(folder / name, json_object)
    return found


def pooled_of(found: Mapping[str, Any], source: str) -> Pooled:
    """What the files of a folder say of the vectors of texts.

    Args:
      found: those of `embedder_files`.
      source: whose they are, for messages.

    Raises:
      UserError: modules, or a pooling, that this project does not have.
    """
    if not found:
        return Pooled()
    modules = [str(module.get("type", "")).rpartition(".")[2] for module in found[MODULES]]
    known = ["Transformer", "Pooling", "Normalize"]
    if modules not in (known, known[:2]):
        raise UserError(
            f"{source} has the modules {', '.join(modules)} in its {MODULES}; known are {', '.join(known)}, in this "
            "order, with or without the last"
        )
    settings = found.get(f"{_paths(found[MODULES], source)[1]}/config.json", {})
    modes = settings.get("pooling_mode") or [mode for mode, field in MODES.items() if settings.get(field)]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(
            f"{source} has the pooling {', '.join(map(str, modes)) or 'of no mode'} in its {POOLING}; known are "
            f"{', '.join(POOLINGS)}"
        )
    transformer, general = found.get(TRANSFORMER, {}), found.get(SETTINGS, {})
    if transformer.get("do_lower_case"):
        raise UserError(
            f"{source} has do_lower_case=true in its {TRANSFORMER}, which is not known; a tokenizer lower-cases itself"
        )
    length, prompts = transformer.get("max_seq_length"), general.get("prompts") or {}
    prompt = prompts.get(general.get("default_prompt_name"), "") if isinstance(prompts, Mapping) else ""
    return Pooled(str(modes[0]), len(modules) > 2, length if isinstance(length, int) else 0, str(prompt))


def _paths(modules: Any, source: str) -> Sequence[str]:
    """The folders of modules, which lie in the model's folder."""
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise UserError(f"{source}: its {MODULES} should be a list of modules; fetch it again")
    paths = [str(each.get("path", "")) for each in modules]
    if wrong := [path for path in paths if not FOLDER.fullmatch(path)]:
        raise UserError(
            f"{source}: its {MODULES} names {wrong[0]!r}; it should name folders of its own folder"
        )
    return paths


def _read(file: epath.Path, reader: Callable[[Any], Any]) -> Any:
    try:
        return reader(file if reader is json_object else file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; fetch it again") from None
