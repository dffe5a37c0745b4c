"""The model that a run starts from: its network, its tokenizer and its weights, as the run takes them over."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from etils import epath

from base.errors import UserError
from base.set_fields import Given, say
from base.storage import check_readable
from data.special_tokens import SpecialTokens
from pretrain import starting_network
from pretrain.config import PretrainConfig
from pretrain.models import EncoderConfig, Params, family_fields, tiling
from pretrain.models.huggingface import (
    OURS,
    config_dict,
    encoder_config,
    load_pretrained,
    parse_config,
    read_config,
)
from pretrain.models.vocabulary import with_rows, with_tokens
from pretrain.runtime.workdir import MODEL_FILE, has_network, is_workdir
from pretrain.trained_network import check_weights, newest_network, trained_network
from tokenizer.load import Loaded, load
from tokenizer.pieces import pieces

if TYPE_CHECKING:
    from pretrain.job import Job

logger = logging.getLogger(__name__)


def with_origin(config: PretrainConfig, workdir: epath.Path, *, resuming: bool) -> PretrainConfig:
    """The config with the paths of its network and tokenizer filled in.

    A resumed run has both in its workdir, as they were made at the start. A network that is damaged there is made again
    as it was then. A run that starts from `init_from` takes both from there, unless the config sets a config file,
    a tokenizer, or a vocabulary of its own.

    Raises:
      UserError: init_from is neither a workdir nor a path or id that could hold a model.
    """
    file, tokenizer = config.model.config_file, config.tokenizer.path
    if resuming and (has_network(workdir) or not (file or config.init_from)):
        file, tokenizer = str(workdir / MODEL_FILE) if file or config.init_from else "", ""
        config = dataclasses.replace(config, init_tiled=False, init_vocabulary="same")
    elif config.init_from:
        model, theirs = _places(config.init_from)
        file = file or model
        tokenizer = tokenizer or ("" if has_own_vocabulary(config) else theirs)
    if resuming:
        tokenizer = ""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, config_file=file),
        tokenizer=dataclasses.replace(config.tokenizer, path=tokenizer),
    )


def _places(init_from: str) -> tuple[str, str]:
    """Where the config.json and the tokenizer of a model are.

    Raises:
      UserError: it is neither a workdir nor a path or id that could hold a model.
    """
    origin = epath.Path(init_from).expanduser()
    check_readable(origin, "config.init_from")
    if is_workdir(origin):
        return str(origin / MODEL_FILE), str(origin / "tokenizer")
    return init_from, init_from


def has_own_vocabulary(config: PretrainConfig) -> bool:
    """Whether the tokens of the run are not those of the model that it starts from."""
    return bool(config.init_from) and config.init_vocabulary != "same"


def settled_with_origin(
    config: PretrainConfig,
    workdir: epath.Path,
    given: Given,
    saved: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = say,
) -> tuple[PretrainConfig, PretrainConfig]:
    """The config with the fields of its given network filled in, and the result of `with_origin`.

    Args:
      config: the run's config, as given.
      workdir: the run's folder.
      given: the fields of the config that were set, and where.
      saved: the `run` item of the newest checkpoint, where the run goes on.
      note: called with a message if the network overrides fields of the recipe.

    Raises:
      UserError: as for `with_origin`, or a field that is set contradicts the given network.
    """
    originated = with_origin(config, workdir, resuming=saved is not None)
    if not starting_network.is_given(config):
        return config, originated
    own_tokens = has_own_vocabulary(originated)
    begun = starting_network.as_begun(_given_network(originated), saved)
    asked = starting_network.with_network(config, given, begun, note, own_tokens=own_tokens)
    if saved is not None:
        originated = starting_network.resumed(originated, saved)
    return asked, originated


def _given_network(config: PretrainConfig) -> EncoderConfig:
    """The network of `config.model.config_file`, in the sizes that a run which is tiled asks for.

    That of a workdir in `config.init_from` is its newest checkpoint's: its file may be of the phase after.
    """
    file, origin = config.model.config_file, epath.Path(config.init_from).expanduser()
    ours = bool(config.init_from) and file == str(origin / MODEL_FILE)
    network = newest_network(origin) if ours else parse_config(read_config(file), file)
    if config.init_tiled:
        sizes = {name: getattr(config.model, name) for name in tiling.SIZES}
        try:
            return tiling.enlarged(network, sizes)
        except UserError as error:
            raise UserError(f"config.model.{error}") from error
    return network


def network(config: PretrainConfig, tokens: int, special: SpecialTokens) -> EncoderConfig:
    """The network that a run trains.

    Args:
      config: a config of `with_origin`.
      tokens: number of tokens of its tokenizer.
      special: the special tokens of its tokenizer.

    Raises:
      UserError: fields that do not fit each other, the tokenizer, or the model that the run starts from.
    """
    own_tokens = has_own_vocabulary(config)
    if not config.init_from:
        return encoder_config(config.model, tokens, special)
    given = _given_network(config)
    if own_tokens:
        if given.family.positions_skip_padding and given.pad_token_id != special.pad:
            raise UserError(
                f"the padding token of the run's tokenizer is {special.pad}, but positions of config.init_from="
                f"{config.init_from!r} count from its pad_token_id={given.pad_token_id}: set config.tokenizer.path to "
                f"a tokenizer whose padding token is {given.pad_token_id}"
            )
        given = _with_special_tokens(given, config.model.vocab_size or tokens, special)
    return encoder_config(config.model, tokens, special, network=given)


def _with_special_tokens(network: EncoderConfig, vocab_size: int, special: SpecialTokens) -> EncoderConfig:
    """The network of another vocabulary: its number of tokens, and the ids of its special tokens."""
    values = config_dict(network)
    ids = {name: i for name, i in family_fields.special_ids(special).items() if values.get(name) is not None}
    return parse_config({**values, **ids, network.family.key("vocab_size"): vocab_size}, OURS)


def check_tokens(config: PretrainConfig, tokenizer: Loaded) -> None:
    """Refuse a tokenizer whose ids mean other tokens than those of the model that the run starts from.

    Some ids may differ: of unused tokens that were given a meaning, say. A model without a tokenizer is not checked.

    Args:
      config: a config of `with_origin`, of a run that begins.
      tokenizer: the run's.

    Raises:
      UserError: most ids are of other tokens.
    """
    if not config.init_from or has_own_vocabulary(config):
        return
    theirs = _places(config.init_from)[1]
    if theirs == config.tokenizer.path:
        return
    try:
        was = load(theirs).tokenizer.get_vocab()
    except UserError:
        return
    now = tokenizer.tokenizer.get_vocab()
    same = sum(was.get(token) == index for token, index in now.items())
    if same < len(now) / 2:
        raise UserError(
            f"config.tokenizer.path={config.tokenizer.path!r}: {len(now) - same:,} of its {len(now):,} tokens are not "
            f"those that config.init_from={config.init_from!r} has under their ids; set config.init_vocabulary=pieces, "
            "which finds the rows of each token"
        )


def origin_params(job: "Job") -> Params:
    """Params of `config.init_from`, as numpy arrays in the tree of the run's model.

    Raises:
      UserError: they cannot be read, or do not fit the network.
    """
    config, encoder = job.config, job.encoder
    origin = epath.Path(config.init_from).expanduser()
    if is_workdir(origin):
        trained = trained_network(origin, weights=config.init_weights)
        theirs, params = trained.encoder, trained.params
    else:
        check_weights(config.init_weights, config.init_from)
        theirs, params = load_pretrained(config.init_from, seed=config.seed)
        if theirs.tie_word_embeddings != encoder.tie_word_embeddings:
            raise UserError(
                f"config.init_from={config.init_from!r} holds a word embedding and an output matrix that differ; set"
                " tie_word_embeddings to false in its config.json"
            )
    if has_own_vocabulary(config):
        params = _of_own_vocabulary(job, theirs, params)
        theirs = dataclasses.replace(theirs, vocab_size=encoder.vocab_size)
    if config.init_tiled:
        _log_sizes(theirs, encoder)
        params = tiling.tiled(theirs, params, dataclasses.replace(encoder, vocab_multiple=1))
        theirs = encoder
    same = theirs.vocab_size == encoder.vocab_size
    return with_rows(theirs, params, encoder.vocab_rows if same else theirs.vocab_size)


def _of_own_vocabulary(job: "Job", theirs: EncoderConfig, params: Params) -> Params:
    """Params with the rows of the run's tokens; the log says how many come from where."""
    old = load(_places(job.config.init_from)[1])
    if old.vocab_size > theirs.vocab_size:
        raise UserError(
            f"config.init_from={job.config.init_from!r} has a tokenizer of {old.vocab_size:,} tokens, but its model "
            f"has rows for {theirs.vocab_size:,}: put the tokenizer there that belongs to it"
        )
    found = pieces(old, job.tokenizer)
    logger.info(
        "%s of %s tokens are shared with %s and keep their rows; %s start as the mean of the rows of their pieces, "
        "%s as the mean of all rows",
        *(f"{found.shared:,}", f"{len(found.ids):,}", job.config.init_from),
        *(f"{len(found.ids) - found.shared - found.unknown:,}", f"{found.unknown:,}"),
    )
    return with_tokens(theirs, params, found.ids, job.encoder.vocab_size)


def _log_sizes(small: EncoderConfig, large: EncoderConfig) -> None:
    sizes = [(name, getattr(small, name), getattr(large, name)) for name in tiling.SIZES]
    changed = [f"{name} {before} -> {after}" for name, before, after in sizes if before != after]
    logger.info("tiled: %s", ", ".join(changed) or "every size is that of the start")
