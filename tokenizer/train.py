"""Train a byte-level BPE tokenizer (Radford et al. 2019, section 2.2), as RoBERTa's, from a text stream."""

import itertools
from collections.abc import Iterable, Iterator, Mapping

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

from data.errors import UserError
from tokenizer import files as tokenizer_files
from tokenizer.config import TokenizerConfig
from tokenizer.interruptible import consume
from tokenizer.load import Loaded, as_json, from_files, valid_unicode
from tokenizer.progress import TrainingProgress

# Ids 0 to 4. The first four are RoBERTa's own; its mask token stands last, which no vocabulary of unknown
# size allows.
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

    The documents are read once and never kept: what grows with the corpus is the table of its distinct words.
    The same documents in the same order give the same bytes, on any number of cores.

    Args:
      documents: the corpus.
      config: the tokenizer's fields (`path` is not looked at).
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
    taken = itertools.islice(documents, config.sample_documents or None)
    with TrainingProgress(shown=progress) as reading:
        tokenizer = _train(taken, config, reading)
        if not reading.documents:
            raise UserError(
                "the corpus has no documents to train a tokenizer on; set config.data.source and config.data.path"
            )
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        raise UserError(
            f"config.tokenizer.vocab_size={config.vocab_size} is more than these {reading.documents} documents "
            f"support: {size} tokens at config.tokenizer.min_frequency={config.min_frequency}; "
            f"set config.tokenizer.vocab_size={size} or less, or give it more text"
        )
    trained = from_files(_files(tokenizer, config, model_max_length), str(out))
    trained.save(out, beside=beside)
    return trained


def _train(documents: Iterable[str], config: TokenizerConfig, reading: TrainingProgress) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if config.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        # The mask token takes the space before it: "a <mask>" is two tokens, and what it hides begins with
        # that space.
        special_tokens=[*SPECIAL_TOKENS[:-1], AddedToken(MASK, lstrip=True, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    consume(lambda texts: tokenizer.train_from_iterator(_batches(texts, reading), trainer), documents)
    sep, cls = (EOS, SPECIAL_TOKENS.index(EOS)), (BOS, SPECIAL_TOKENS.index(BOS))
    tokenizer.post_processor = processors.RobertaProcessing(
        sep, cls, trim_offsets=True, add_prefix_space=config.add_prefix_space
    )
    return tokenizer


def _batches(documents: Iterable[str], reading: TrainingProgress) -> Iterator[list[str]]:
    """Documents in lists of about a million characters, counted as they pass."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        try:
            size = len(document.encode())
        except UnicodeEncodeError:
            document = valid_unicode(document)
            size = len(document.encode())
        batch.append(document)
        characters += len(document)
        reading.read(size)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
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
