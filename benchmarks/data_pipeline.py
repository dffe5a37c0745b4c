"""Tokens a second of the data pipeline, from file to packed rows, against bare `tokenizers` on the same text.

    python -m benchmarks.data_pipeline --path TEXT_FILE [--tokenizer DIR] [--packing full] [--rounds 5]

Each round times, one after another, so that whatever else the machine does touches all alike: the bare tokenizer's
encode_batch and encode_batch_fast over the documents in one call, ids left where they are; and the pipeline from the
file to batches of packed rows, opening included. The figures are medians over the rounds, the ratios medians of the
rounds' ratios. A line of the file is a document; without --tokenizer a byte-level BPE is trained on it.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from data.batches import open_batches
from data.config import DataConfig
from data.special_tokens import SpecialTokens
from data.tokens import Encode

NAMES = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def main() -> None:
    arguments = parse()
    documents = [line for line in Path(arguments.path).read_text("utf-8").split("\n") if line.strip()]
    tokenizer, special = prepare(arguments.tokenizer, documents)
    config = DataConfig(
        source="files",
        path=arguments.path,
        streams=arguments.streams,
        packing=arguments.packing,
        eval_fraction=arguments.eval_fraction,
    )
    contestants = {
        "encode_batch": lambda: bare(tokenizer.encode_batch, documents),
        "encode_batch_fast": lambda: bare(tokenizer.encode_batch_fast, documents),
        "pipeline": lambda: pipeline(config, as_encode(tokenizer), special, arguments),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    print(
        f"{len(documents)} documents of {sum(map(len, documents)) / len(documents):.0f} characters, {os.cpu_count()} cores"
    )
    for round_number in range(arguments.rounds + 1):
        for name, contestant in contestants.items():
            begin = time.perf_counter()
            tokens = contestant()
            if round_number:  # the first warms up
                rates[name].append(tokens / (time.perf_counter() - begin))
    for name, values in rates.items():
        print(f"{name:18} {statistics.median(values):12,.0f} tokens/s")
    for name in ("encode_batch", "encode_batch_fast"):
        ratios = [mine / bare_rate for mine, bare_rate in zip(rates["pipeline"], rates[name])]
        print(
            f"pipeline / {name:18} {statistics.median(ratios):.3f}  ({min(ratios):.3f} .. {max(ratios):.3f})"
        )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--path", required=True, help="a text file, one document a line")
    parser.add_argument(
        "--tokenizer", default="", help="a tokenizer.json; trained on the text where not given"
    )
    parser.add_argument("--packing", default="full", choices=("full", "documents", "lines"))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--global-batch", type=int, default=256)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--eval-fraction", type=float, default=0.005)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def prepare(path: str, documents: Sequence[str]) -> tuple[Tokenizer, SpecialTokens]:
    """The tokenizer at `path`, or a byte-level BPE of 16,000 tokens trained on the first documents."""
    if path:
        tokenizer = Tokenizer.from_file(path)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=16000,
            special_tokens=list(NAMES.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(documents[:20000], trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer, SpecialTokens(**{role: tokenizer.token_to_id(name) for role, name in NAMES.items()})


def as_encode(tokenizer: Tokenizer) -> Encode:
    """Texts to arrays of ids, as `tokenizer.load.Loaded.encode` makes them."""

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.fromiter(encoding.ids, np.int32, len(encoding)) for encoding in encodings]

    return encode


def bare(encode_batch: object, documents: Sequence[str]) -> int:
    """Tokenize all documents in one call; returns the number of tokens."""
    return sum(map(len, encode_batch(documents, add_special_tokens=False)))  # type: ignore[operator]


def pipeline(
    config: DataConfig, encode: Encode, special: SpecialTokens, arguments: argparse.Namespace
) -> int:
    """One epoch of batches; returns the number of tokens of text in them."""
    tokens = 0
    with open_batches(
        config,
        encode,
        special,
        seed=0,
        seq_len=arguments.seq_len,
        global_batch=arguments.global_batch,
        epochs=1,
    ) as batches:
        for batch in batches:
            ids = batch.arrays["tokens"]
            tokens += int(
                np.count_nonzero((ids != special.pad) & (ids != special.cls) & (ids != special.sep))
            )
    return tokens


if __name__ == "__main__":
    main()
