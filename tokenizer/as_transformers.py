"""Opens the files of a tokenizer as transformers' AutoTokenizer does, so that a text has the same ids in both.

For many classes transformers rebuilds the tokenizer from the vocabulary and tokenizer_config.json, and takes only part
of tokenizer.json. So transformers' code opens the files here too. Code that comes with the files never runs.
"""

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from base.errors import UserError
from tokenizer import panics, tokenizer_files
from tokenizer.needs_transformers import NAMED, is_as_written

OF_THE_MODEL = ("model_type", "tokenizer_class")
"""Fields of a model's config.json that choose the class of its tokenizer."""
TOKEN_TYPES = "token_type_ids"
TRIAL = "A text, \u00e9t\u00e9 \u4e2d\u6587 \U0001f600 123"
"""Letters, digits and signs of several scripts."""


@dataclass(frozen=True)
class Opened:
    """A tokenizer as transformers opens it."""

    tokenizer: Tokenizer
    """The tokenizer, without truncation and padding. Text that spells a special token gets that token's id."""
    written: Tokenizer
    """The tokenizer that tokenizer.json alone defines."""
    kind: str
    """Its class in transformers."""
    names: Mapping[str, str]
    """Its special tokens by the fields that name them: cls_token, bos_token, mask_token ..."""
    token_types: bool
    """Whether it gives a model token types."""
    truncation_side: str
    """Which end of a long text is cut: left or right."""


def open_files(files: Mapping[str, bytes], where: str) -> Opened:
    """Open a tokenizer from the contents of its files, by name; `where` is their origin, for messages.

    Raises:
      UserError: transformers cannot open them, or not as a fast tokenizer.
    """
    try:
        with panics.caught():
            return _opened(files)
    except Exception as error:  # each library has errors of its own, the Rust one a bare Exception
        code = "auto_map" in tokenizer_files.json_object(
            files, tokenizer_files.CONFIG
        ) and "trust_remote_code" in str(error)
        raise UserError(
            f"the tokenizer {where} names code of its own (auto_map in {tokenizer_files.CONFIG}), which is never run; "
            f"remove auto_map and tokenizer_class there to take {tokenizer_files.TOKENIZER} as it is"
            if code
            else f"the tokenizer {where} cannot be read: {' '.join(str(error).split())}; set config.tokenizer.path"
        ) from error


def _opened(files: Mapping[str, bytes]) -> Opened:
    written = Tokenizer.from_buffer(files[tokenizer_files.TOKENIZER])
    config = tokenizer_files.json_object(files, tokenizer_files.CONFIG)
    beside = {tokenizer_files.SPECIAL_TOKENS_MAP, tokenizer_files.ADDED_TOKENS}
    if beside.isdisjoint(files) and is_as_written(written, config):
        return _tried(_as_written(written, config))
    theirs = _open(files)
    tokenizer = theirs.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _tried(
        Opened(
            tokenizer=tokenizer,
            written=written,
            kind=type(theirs).__name__,
            names={
                field: str(theirs.special_tokens_map[field])
                for field in NAMED
                if getattr(theirs, field, None)
            },
            token_types=TOKEN_TYPES in theirs.model_input_names,
            truncation_side=theirs.truncation_side,
        )
    )


def _tried(opened: Opened) -> Opened:
    """A tokenizer that has encoded and decoded a text: a damaged one may open, and panic only then."""
    for tokenizer in (opened.tokenizer, opened.written):
        with contextlib.suppress(Exception):  # such as that of a tokenizer without an unk token
            tokenizer.decode(tokenizer.encode(TRIAL, add_special_tokens=False).ids)
    return opened


def _as_written(written: Tokenizer, config: Mapping[str, Any]) -> Opened:
    return Opened(
        tokenizer=written,
        written=written,
        kind=config["tokenizer_class"],
        names={field: config[field] for field in NAMED if field in config},
        token_types=TOKEN_TYPES in config.get("model_input_names", ()),
        truncation_side="right",
    )


def _open(files: Mapping[str, bytes]) -> Any:
    """transformers' tokenizer of these files, which it reads from a folder."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        from transformers import AutoTokenizer

        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        if tokenizer_files.MODEL in files:
            model = tokenizer_files.json_object(files, tokenizer_files.MODEL)
            chosen = {name: model[name] for name in OF_THE_MODEL if model.get(name)}
            (Path(folder) / tokenizer_files.MODEL).write_text(json.dumps(chosen))
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' warnings, such as those about a missing torch or about the tokenizer's class."""
    silent = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    given = os.environ.get(silent)
    os.environ[silent] = "1"
    try:
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(verbosity)
    finally:
        os.environ.pop(silent) if given is None else os.environ.update({silent: given})
