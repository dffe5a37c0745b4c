"""MB/s of each step of a preparation beside datatrove's and rensa's, and tokens/s of reading what was prepared.

    python -m benchmarks.corpus_time steps --path GLOB [--txt_documents blank_line] [--documents 4000]
    python -m benchmarks.corpus_time reading --prepared DIR --path GLOB [--txt_documents blank_line]

`steps` gives the CPU time of one thread, which is the same on a busy machine; the contestants take turns, document by
document in blocks. datatrove's blocks split words by our regular expression, because its own splitters need other
packages. `reading` runs the same pipeline (streams, packing, batches) over prepared shards and over the text, in turns.
Then a consumer asks the shards for a number of tokens a second, and the share of time that it waits is given.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from data.batches import open_batches
from data.config import DataConfig
from data.corpus import training_documents
from data.held_out_documents import digest
from data.prepare.config import NearConfig, PrepareConfig
from data.prepare.near_duplicates import MinHash
from data.prepare.rules import document_rules
from data.prepare.words import compared_words
from tokenizer.load import load

CLOCKS = {"second": time.perf_counter, "CPU second": time.process_time}
"""A run takes wall time. The CPU time of the process, over all its threads, is the same on a busy machine."""
BLOCK = 250
"""Documents that a contestant takes in one turn."""


class Words:
    """Our splitter of words, in datatrove's form."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return compared_words(text)


def steps(arguments: argparse.Namespace) -> None:
    """Print MB/s of each step, and of others' that do the same."""
    texts = [text for text, _ in zip(training_documents(config_of(arguments)), range(arguments.documents))]
    size = sum(len(text.encode()) for text in texts) / 1e6
    contestants = {**ours(), **others()}
    seconds = dict.fromkeys(contestants, 0.0)
    for start in range(0, len(texts), BLOCK):
        for name, contestant in contestants.items():
            begin = time.thread_time()
            for text in texts[start : start + BLOCK]:
                contestant(text)
            seconds[name] += time.thread_time() - begin
    print(f"{len(texts)} documents, {size:.1f} MB, one thread of {os.cpu_count()} cores")
    for name, taken in seconds.items():
        print(f"{name:44} {size / taken:8.1f} MB / CPU second")


def ours() -> dict[str, Callable[[str], Any]]:
    """Our steps of one document."""
    named = ("unicode", "length", "repetition", "quality", "masks")
    rules = document_rules(PrepareConfig(steps=named))
    return {
        **{f"ours, {name}": rule for name, rule in rules},
        "ours, exact (digest)": digest,
        "ours, near (MinHash, 112 hashes)": MinHash(NearConfig()),
    }


def others() -> dict[str, Callable[[str], Any]]:
    """The same of datatrove and rensa."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.filters import gopher_quality_filter as quality_module
    from datatrove.pipeline.filters import gopher_repetition_filter as repetition_module
    from datatrove.pipeline.formatters import FTFYFormatter
    from rensa import RMinHash

    minhash.load_word_tokenizer = lambda language: Words()
    for module in (quality_module, repetition_module):
        module.split_into_words = lambda text, language: compared_words(text)
    signature = minhash.MinhashDedupSignature(tempfile.mkdtemp())
    signature._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # xxhash 4 takes no str
    repetition, quality = GopherRepetitionFilter(), GopherQualityFilter(min_stop_words=None)
    repair = FTFYFormatter()

    def signed(text: str) -> object:
        shingles = signature.get_shingles(text)
        return signature.get_signature(shingles) if shingles.size else None

    def rensa(text: str) -> list[int]:
        words = compared_words(text)
        made = RMinHash(num_perm=112, seed=0)
        made.update([" ".join(words[start : start + 5]) for start in range(max(1, len(words) - 4))])
        return made.digest()

    return {
        "datatrove, FTFYFormatter": repair.format,
        "datatrove, GopherRepetitionFilter": lambda text: repetition.filter(Document(text=text, id="")),
        "datatrove, GopherQualityFilter": lambda text: quality.filter(Document(text=text, id="")),
        "datatrove, MinhashDedupSignature": signed,
        "rensa, RMinHash (112 hashes)": rensa,
    }


def reading(arguments: argparse.Namespace) -> None:
    """Print tokens a second from shards and from text, and how long a consumer waits for shards."""
    prepared = DataConfig(source="prepared", path=arguments.prepared, packing=arguments.packing)
    text = config_of(arguments)
    configs = {"prepared shards": prepared, "streaming text": text}
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in configs}
    for _ in range(arguments.rounds):
        for name, config in configs.items():
            rates[name].append(tokens_per_second(config, arguments))
    for clock in CLOCKS:
        for name, rounds in rates.items():
            values = [each[clock] / 1e6 for each in rounds]
            spread = f"{min(values):.2f} .. {max(values):.2f}"
            print(f"{name:20} {statistics.median(values):8.2f} M tokens / {clock} ({spread})")
        ratio = statistics.median(mine[clock] / other[clock] for mine, other in zip(*rates.values()))
        print(f"ratio of each round, median: {ratio:.1f}")
    for demand in arguments.demand:
        print(
            f"a consumer of {demand / 1e6:g} M tokens/s waits {consumer_wait(prepared, arguments, demand):.2%}"
        )


def tokens_per_second(config: DataConfig, arguments: argparse.Namespace) -> dict[str, float]:
    """Tokens of rows a second, by each clock, over `batches` batches, after a first that opens everything."""
    tokenizer = load(f"{arguments.prepared}/tokenizer")
    shape = {"seed": 0, "seq_len": arguments.seq_len, "global_batch": arguments.global_batch}
    with open_batches(config, tokenizer.encode, tokenizer.special, **shape) as batches:
        next(batches)
        begin = {name: read() for name, read in CLOCKS.items()}
        for _ in range(arguments.batches):
            next(batches)
        taken = {name: read() - begin[name] for name, read in CLOCKS.items()}
    tokens = arguments.batches * arguments.seq_len * arguments.global_batch
    return {name: tokens / seconds for name, seconds in taken.items()}


def consumer_wait(config: DataConfig, arguments: argparse.Namespace, demand: float) -> float:
    """The share of its time that a consumer waits which takes a batch whenever its step would have ended."""
    tokenizer = load(f"{arguments.prepared}/tokenizer")
    shape = {"seed": 0, "seq_len": arguments.seq_len, "global_batch": arguments.global_batch}
    step = arguments.seq_len * arguments.global_batch / demand
    with open_batches(config, tokenizer.encode, tokenizer.special, **shape) as batches:
        next(batches)
        waited, begin = 0.0, time.perf_counter()
        for _ in range(4 * arguments.batches):
            waited += next(batches).wait
            time.sleep(step)
        return waited / (time.perf_counter() - begin)


def config_of(arguments: argparse.Namespace) -> DataConfig:
    """The text."""
    return DataConfig(
        source="files", path=arguments.path, txt_documents=arguments.txt_documents, packing=arguments.packing
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=("steps", "reading"))
    parser.add_argument("--path", required=True, help="text: paths or globs")
    parser.add_argument("--txt_documents", default="lines", choices=("lines", "blank_line"))
    parser.add_argument("--documents", type=int, default=4000, help="steps: documents to take")
    parser.add_argument("--prepared", default="", help="reading: the folder that data.prepare wrote")
    parser.add_argument("--packing", default="full", choices=("full", "documents", "best_fit", "lines"))
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--global-batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--demand", type=float, nargs="*", default=[1e6, 5e6, 10e6])
    return parser.parse_args(argv)


if __name__ == "__main__":
    arguments = parse()
    {"steps": steps, "reading": reading}[arguments.part](arguments)
