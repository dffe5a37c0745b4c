"""The tokenizer of a run: the one its config names, the one in its workdir, or a new one.

The file `made_from.json` in the tokenizer's folder records the config and the corpus that it was made from. So a config
that asks for another tokenizer is refused, and never gets the old tokenizer by mistake.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from base import schema
from base.errors import UserError
from base.json_files import json_object
from data.config import DataConfig
from data.corpus import corpus_fingerprint, open_sources, training_documents
from data.prepared.source import PreparedSource
from data.source_protocol import Source
from tokenizer import tokenizer_files
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded, load
from tokenizer.shard_beginnings import documents_of_beginnings
from tokenizer.tokenizer_files import as_json
from tokenizer.train import train_tokenizer

log = logging.getLogger(__name__)

MADE_FROM = "made_from.json"
"""{"config": the fields of TokenizerConfig, "corpus": the fingerprint of its text, "data": the fields of DataConfig
that determine the text}; "corpus" and "data" are null if the tokenizer was copied."""
UNDECIDING = ("bad_documents", "streams", "split_files", "window", "packing", "prefetch")
"""Fields of DataConfig that do not affect which documents the corpus has."""


def tokenizer_folder(workdir: epath.Path) -> epath.Path:
    """Where a run keeps its tokenizer."""
    return workdir / "tokenizer"


def has_tokenizer(workdir: epath.Path) -> bool:
    """Whether a run has its tokenizer already (its tokenizer.json is written last)."""
    return (tokenizer_folder(workdir) / tokenizer_files.TOKENIZER).exists()


def ensure_tokenizer(
    config: TokenizerConfig,
    data: DataConfig,
    workdir: epath.Path,
    *,
    model_max_length: int,
    progress: bool = True,
    resuming: bool = False,
) -> Loaded:
    """Return the run's tokenizer. If WORKDIR/tokenizer is missing, copy it from `config.path`, or train it.

    Training is deterministic. If several processes share a workdir, one of them must call this before the others do.

    Args:
      config: the tokenizer to load, or how to train one.
      data: the documents to train it on: those that pretraining reads.
      workdir: the run's folder.
      model_max_length: longest input of the model, in tokens; it is saved for transformers.
      progress: report on stderr how far training is.
      resuming: whether the run has already begun with the tokenizer in its workdir. `made_from.json` is then not
        checked: another check decides which fields may change on resume.

    Raises:
      UserError: the tokenizer cannot be loaded or trained, or the workdir holds another one than the config asks
      for.
    """
    folder = tokenizer_folder(workdir)
    kept = _kept(folder) if has_tokenizer(workdir) else None
    if config.path:
        named = load(config.path)
        if kept is None:
            if not named.tokenizer.num_special_tokens_to_add(is_pair=False):
                log.warning(
                    "config.tokenizer.path=%r puts no special tokens around a text, for want of a post_processor in "
                    "its %s: this run puts them there itself, but fine-tuning refuses its model, and transformers "
                    "would leave them out",
                    config.path,
                    tokenizer_files.TOKENIZER,
                )
            named.save(folder, beside=_made_from(config))
        elif kept.fingerprint() != named.fingerprint():
            raise UserError(
                f"config.tokenizer.path={config.path!r} is not the tokenizer that this run began with, "
                f"in {folder}; unset it, or set another --workdir"
            )
        return named
    if kept is not None:
        if not resuming and (folder / MADE_FROM).exists():
            _check_made_from(folder, config, data)
        return kept
    sources = open_sources(data)
    if (brought := prepared_tokenizer(sources)) is not None:
        brought.save(folder, beside=_made_from(config, corpus_fingerprint(data, sources), _deciding(data)))
        return brought
    if data.eval_source is not None and data.eval_source.source == "prepared":
        raise UserError(
            f"config.data.eval_source.path={data.eval_source.path!r} holds token ids of the tokenizer that it was "
            "prepared with, and a tokenizer trained on the text would be another; set config.tokenizer.path="
            f"{data.eval_source.path.rstrip('/') + '/tokenizer'!r}, or evaluate on text"
        )
    return train_tokenizer(
        _text(config, data, sources),
        config,
        folder,
        model_max_length=model_max_length,
        progress=progress,
        beside=_made_from(config, corpus_fingerprint(data, sources), _deciding(data)),
    )


def _text(config: TokenizerConfig, data: DataConfig, sources: Sequence[Source]) -> Iterator[str]:
    """The documents to train on, or to draw the sample from."""
    limits = {"documents_at_most": config.sample_documents, "bytes_at_most": config.sample_bytes}
    if config.sample_from == "corpus" or not any(limits.values()):
        return training_documents(data, sources)
    return documents_of_beginnings(data, sources, **limits)


def prepared_tokenizer(sources: Sequence[Source]) -> Loaded | None:
    """The tokenizer that made the ids of prepared sources; None if no source is prepared.

    Raises:
      UserError: it is missing or damaged, or it is not that of all prepared sources.
    """
    prepared = [source for source in sources if isinstance(source, PreparedSource)]
    if not prepared:
        return None
    first = prepared[0]
    if not (first.tokenizer / tokenizer_files.TOKENIZER).exists():
        raise UserError(
            f"{first.setting} has no tokenizer/{tokenizer_files.TOKENIZER}; copy the whole folder, or set "
            "config.tokenizer.path to the tokenizer of the shards"
        )
    loaded = load(str(first.tokenizer))
    check_prepared(sources, loaded)
    return loaded


def check_prepared(sources: Sequence[Source], tokenizer: Loaded) -> None:
    """Refuse prepared sources whose ids another tokenizer made.

    Raises:
      UserError: the field of the source, and what to do.
    """
    for source in sources:
        if isinstance(source, PreparedSource):
            source.check_tokenizer(tokenizer.fingerprint())


def _kept(folder: epath.Path) -> Loaded:
    """The tokenizer in a run's folder.

    Raises:
      UserError: it is damaged.
    """
    try:
        return load(str(folder))
    except UserError as error:
        flaw = str(error).removesuffix("; set config.tokenizer.path")
        raise UserError(
            f"{flaw}; put its files back, or delete that folder and run the same command again, which makes it again"
        ) from error


def _made_from(
    config: TokenizerConfig, corpus: str | None = None, data: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    return {MADE_FROM: as_json({"config": schema.as_dict(config), "corpus": corpus, "data": data})}


def _deciding(data: DataConfig) -> dict[str, Any]:
    return {name: value for name, value in schema.as_dict(data).items() if name not in UNDECIDING}


def _check_made_from(folder: epath.Path, config: TokenizerConfig, data: DataConfig) -> None:
    """Refuse a config or a corpus that differs from the recorded one, because it would give another tokenizer."""
    recorded = _read_made_from(folder)
    changed = list(_differences(recorded["config"], schema.as_dict(config), "config.tokenizer"))
    if not changed:
        corpus = corpus_fingerprint(data)
        if recorded["corpus"] != corpus:
            changed = list(_differences(recorded["data"], _deciding(data), "config.data")) or [
                f"the corpus (config.data) has changed (fingerprint {recorded['corpus']} then, {corpus} now)"
            ]
    if changed:
        raise UserError(
            f"the tokenizer in {folder} was made from another config or corpus: {'; '.join(changed)}; "
            "delete that folder, or set another --workdir"
        )


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield the old and the new value of each field that differs. A field without a recorded value does not differ."""
    for name, value in now.items():
        before = was.get(name, value)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            yield from _differences(before, value, f"{where}.{name}")
        elif before != value:
            yield f"{where}.{name} was {before!r}, is {value!r}"


def _read_made_from(folder: epath.Path) -> Mapping[str, Any]:
    try:
        recorded = json_object(folder / MADE_FROM)
        return {
            "config": dict(recorded["config"]),
            "corpus": recorded["corpus"],
            "data": dict(recorded.get("data") or {}),
        }
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder / MADE_FROM}, which says how the tokenizer there was made, is damaged; "
            "delete that folder, or set another --workdir"
        ) from error
