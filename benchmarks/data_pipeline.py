"""Tokens a second of the data pipeline, from file to packed rows, against bare `tokenizers` on the same text.

    python -m benchmarks.data_pipeline --path TEXT_FILE [--tokenizer DIR] [--packing full] [--rounds 5]

Each round times four programs, one after another, so that other load affects all of them alike: the bare tokenizer's
encode_batch and encode_batch_fast over the documents in one call, encode_batch in calls of 1,000 documents, and the
pipeline from the file to batches of packed rows. The bare tokenizer's ids are not copied; the pipeline's time has the
opening of the file. The figures are medians over the rounds, and the ratios are medians of the rounds' ratios. The
pipeline's own cost grows with the documents (about 8 microseconds each), the tokenizer's with the characters. So short
documents make the ratio smaller. Without --tokenizer, a byte-level BPE is trained on the text.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, trainers

from data.batches import open_batches
from data.config import DataConfig
from tokenizer.load import Loaded, from_files, load
from tokenizer.tokenizer_files import TOKENIZER

CLOCKS = {"second": time.perf_counter, "CPU second": time.process_time}
"""A run takes wall time. The CPU time of the process, over all its threads, is the same on a busy machine."""

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def main() -> None:
    arguments = parse()
    separator = {"lines": "\n", "blank_line": "\n\n"}[arguments.documents]
    documents = [text for text in Path(arguments.path).read_text("utf-8").split(separator) if text.strip()]
    tokenizer = load(arguments.tokenizer) if arguments.tokenizer else trained(documents)
    config = DataConfig(
        source="files",
        path=arguments.path,
        txt_documents=arguments.documents,
        streams=arguments.streams,
        packing=arguments.packing,
        eval_fraction=arguments.eval_fraction,
    )
    contestants = {
        "encode_batch": lambda: bare(tokenizer.tokenizer.encode_batch, documents),
        "encode_batch_fast": lambda: bare(tokenizer.tokenizer.encode_batch_fast, documents),
        "encode_batch by 1000": lambda: sum(
            bare(tokenizer.tokenizer.encode_batch, documents[start : start + 1000])
            for start in range(0, len(documents), 1000)
        ),
        "pipeline": lambda: pipeline(config, tokenizer, arguments),
    }
    print(
        f"{len(documents)} documents of {statistics.mean(map(len, documents)):.0f} characters, {os.cpu_count()} cores"
    )
    rates: dict[tuple[str, str], list[float]] = {
        (name, clock): [] for name in contestants for clock in CLOCKS
    }
    for round_number in range(arguments.rounds + 1):
        for name, contestant in contestants.items():
            begin = {clock: read() for clock, read in CLOCKS.items()}
            tokens = contestant()
            if round_number:  # the first warms up
                for clock, read in CLOCKS.items():
                    rates[name, clock].append(tokens / (read() - begin[clock]))
    for clock in CLOCKS:
        report({name: rates[name, clock] for name in contestants}, clock)


def report(rates: dict[str, list[float]], clock: str) -> None:
    """Print medians, and medians of each round's ratios."""
    for name, values in rates.items():
        ratios = [mine / other for mine, other in zip(rates["pipeline"], values)]
        spread = f"{min(ratios):.3f} .. {max(ratios):.3f}"
        print(
            f"{name:20} {statistics.median(values):12,.0f} tokens / {clock:10}"
            f"   pipeline's ratio to it {statistics.median(ratios):.3f} ({spread})"
        )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--path", required=True, help="a text file")
    parser.add_argument(
        "--tokenizer",
        default="",
        help="a folder, tokenizer.json or hub id; trained on the text where not given",
    )
    parser.add_argument(
        "--documents", default="lines", choices=("lines", "blank_line"), help="what a document is"
    )
    parser.add_argument("--packing", default="full", choices=("full", "documents", "best_fit", "lines"))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--global-batch", type=int, default=256)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--eval-fraction", type=float, default=0.005)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def trained(documents: Sequence[str]) -> Loaded:
    """A byte-level BPE of 16,000 tokens trained on the first documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=16000,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents[:20000], trainer)
    return from_files({TOKENIZER: tokenizer.to_str().encode()}, "trained on the text")


def bare(encode_batch: Callable[..., list[Encoding]], documents: Sequence[str]) -> int:
    """Tokenize all documents in one call; returns the number of tokens."""
    return sum(len(encoding) for encoding in encode_batch(documents, add_special_tokens=False))


def pipeline(config: DataConfig, tokenizer: Loaded, arguments: argparse.Namespace) -> int:
    """One epoch of batches; returns the number of tokens of text in them."""
    tokens, special = 0, tokenizer.special
    with open_batches(
        config,
        tokenizer.encode,
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
