"""Train a byte-level BPE tokenizer (Radford et al. 2019, section 2.2), as RoBERTa's, from a text stream."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from etils import epath
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.pre_tokenizers import PreTokenizer

from base.errors import UserError
from base.interruptible import consume
from tokenizer import tokenizer_files
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded, from_files, valid_unicode
from tokenizer.long_texts import pieces, safe_places
from tokenizer.long_words import LONGEST_WORD, WordCutter
from tokenizer.pair_counts import PairCounts
from tokenizer.sample import Sample
from tokenizer.tokenizer_files import as_json
from tokenizer.training_progress import TrainingProgress

logger = logging.getLogger(__name__)

# Ids 0 to 4. The first four are those of RoBERTa. RoBERTa's mask token has the last id of the vocabulary, which is not
# known before training.
BOS, PAD, EOS, UNK, MASK = SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BYTES = 256
SMALLEST_VOCABULARY = BYTES + len(SPECIAL_TOKENS)

_BATCH_CHARACTERS = 1 << 20


def train_tokenizer(
    documents: Iterable[str],
    config: TokenizerConfig,
    out: epath.Path,
    *,
    model_max_length: int,
    progress: bool,
    beside: Mapping[str, bytes] | None = None,
) -> Loaded:
    """Train a tokenizer and write it into the folder `out`, whole or not at all.

    The documents are read once and not kept. Only the table of distinct words grows with the corpus.
    The same documents in the same order give the same bytes, on any number of cores.

    Args:
      documents: the corpus.
      config: the tokenizer's fields; `path` is ignored.
      out: the folder that transformers' AutoTokenizer will read.
      model_max_length: tokens that the model takes, written for transformers.
      progress: report on stderr how far it is.
      beside: other files to write with it, contents by name.

    Raises:
      UserError: a vocabulary that cannot hold the bytes, no documents, or too little text for the vocabulary.
    """
    if config.vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"config.tokenizer.vocab_size={config.vocab_size} is too small for {BYTES} bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens; set at least {SMALLEST_VOCABULARY}"
        )
    for name in ("sample_documents", "sample_bytes"):
        if getattr(config, name) < 0:
            raise UserError(
                f"config.tokenizer.{name}={getattr(config, name)} should be 1 or more, or 0 for all"
            )
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=config.add_prefix_space)
    cutter = WordCutter(splitter)
    with TrainingProgress(shown=progress) as reading:
        taken = Sample(
            documents,
            documents_at_most=config.sample_documents,
            bytes_at_most=config.sample_bytes,
            looked_at=reading.look,
        )
        tokenizer = _train(taken, config, splitter, cutter, reading)
        if not reading.documents:
            raise UserError(
                "the corpus has no documents to train a tokenizer on; set config.data.source and config.data.path"
            )
    if cutter.words:
        logger.warning(
            "%d words of the tokenizer's text have more than %d characters (the longest has %d); they were cut into "
            "parts of this length; text without spaces or punctuation makes few useful tokens",
            cutter.words,
            LONGEST_WORD,
            cutter.longest,
        )
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        raise UserError(_too_large(config, size, reading.documents, sampled=taken.left_out > 0))
    trained = from_files(_files(tokenizer, config, model_max_length), str(out))
    trained.save(out, beside=beside)
    return trained


def _too_large(config: TokenizerConfig, size: int, documents: int, *, sampled: bool) -> str:
    """Says that the vocabulary is larger than the text supports, which field limits the text, and what it supports."""
    if sampled:
        limit = "sample_documents" if config.sample_documents == documents else "sample_bytes"
        text = f"the {documents} documents of config.tokenizer.{limit}={getattr(config, limit)} support"
        remedy = f"raise config.tokenizer.{limit} (0 takes all documents)"
    else:
        text = f"these {documents} documents support"
        remedy = "give it more text (config.data)"
    if config.min_frequency > 1:
        remedy += f", or lower config.tokenizer.min_frequency={config.min_frequency}"
    return (
        f"config.tokenizer.vocab_size={config.vocab_size} is more than {text}: {size} tokens at "
        f"config.tokenizer.min_frequency={config.min_frequency}; set config.tokenizer.vocab_size={size} or less to "
        f"take what there is, or {remedy}"
    )


def _train(
    documents: Iterable[str],
    config: TokenizerConfig,
    splitter: PreTokenizer,
    cutter: WordCutter,
    reading: TrainingProgress,
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if config.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        # The mask token includes the space before it: "a <mask>" is two tokens. The token that it replaces includes
        # that space too.
        special_tokens=[*SPECIAL_TOKENS[:-1], AddedToken(MASK, lstrip=True, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    places = safe_places(tokenizer, json.loads(tokenizer.to_str()))

    def parts(text: str) -> Iterator[str]:
        for piece in pieces(text, places):
            yield from cutter.cut(piece)

    consume(lambda texts: tokenizer.train_from_iterator(_batches(texts, parts, reading), trainer), documents)
    sep, cls = (EOS, SPECIAL_TOKENS.index(EOS)), (BOS, SPECIAL_TOKENS.index(BOS))
    tokenizer.post_processor = processors.RobertaProcessing(
        sep, cls, trim_offsets=True, add_prefix_space=config.add_prefix_space
    )
    return tokenizer


def _batches(
    documents: Iterable[str], cut: Callable[[str], Iterable[str]], reading: TrainingProgress
) -> Iterator[list[str]]:
    """Yield lists of the documents' parts, about a million characters each, and count the documents."""
    batch: list[str] = []
    characters = 0
    pairs = PairCounts()
    for document in documents:
        try:
            content = document.encode()
        except UnicodeEncodeError:
            document = valid_unicode(document)
            content = document.encode()
        reading.read(len(content))
        pairs.add(content)
        for part in cut(document):
            batch.append(part)
            characters += len(part)
            if characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    pairs.check()
    if batch:
        yield batch
    reading.merge()


def _files(tokenizer: Tokenizer, config: TokenizerConfig, model_max_length: int) -> dict[str, bytes]:
    """The files that AutoTokenizer reads."""
    # transformers' RobertaTokenizer rebuilds itself without the normaliser; the generic class keeps all of
    # tokenizer.json.
    name = "PreTrainedTokenizerFast" if config.nfc else "RobertaTokenizer"
    described = {
        "tokenizer_class": name,
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "add_prefix_space": config.add_prefix_space,
        "clean_up_tokenization_spaces": False,
        "bos_token": BOS,
        "cls_token": BOS,
        "eos_token": EOS,
        "sep_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "mask_token": MASK,
    }
    content = tokenizer.to_str(pretty=True).encode()
    return {tokenizer_files.TOKENIZER: content, tokenizer_files.CONFIG: as_json(described)}
