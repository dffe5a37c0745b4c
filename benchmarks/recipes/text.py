"""A text for the ladder: what all runs train on, their tokenizer, and the held-out rows with transformers' masks."""

import gzip
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.config import DataConfig
from data.corpus import training_documents
from data.held_out_documents import HeldOut
from pretrain.objective.token_frequencies import frequency_loss
from tokenizer.load import Loaded, load

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
HELD_OUT = 0.02
"""Share of the documents that no run is trained on."""
IGNORED = -100
"""The label of a token that is not predicted, in PyTorch and transformers."""
RATE = 0.15
COUNTED = 4_000_000
"""Characters of training text in which tokens are counted."""
LOOKED_AT = 1000
"""Lines of a text file that are looked at for a blank one."""
DONE = "text.json"


@dataclass(frozen=True)
class Text:
    """A text that is ready: the files of a folder."""

    folder: Path

    @property
    def train(self) -> Path:
        """The training documents in an order by hash, with a blank line between them."""
        return self.folder / "train.txt"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder."""
        return self.folder / "tokenizer"

    @property
    def facts(self) -> dict[str, Any]:
        """Its source, its sizes, and the loss of token frequencies on the tokens that are predicted."""
        return json.loads((self.folder / DONE).read_text())

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Held-out rows, masked, and their labels: int32 [R, S] each; `IGNORED` where nothing is predicted."""
        arrays = np.load(self.folder / "held_out.npz")
        return arrays["tokens"], arrays["labels"]

    def training_ids(self) -> np.ndarray:
        """All training documents as ids with <s> and </s> around each, joined, int32 [T]; made when first asked for."""
        file = self.folder / "train.npy"
        if not file.exists():
            ids = joined(load(str(self.tokenizer)), self.train.read_text(encoding="utf-8").split("\n\n"))
            np.save(file, ids)
        return np.load(file)


def prepare(
    name: str, path: Path, folder: Path, *, vocab_size: int, seq_len: int, rows: int, megabytes: float
) -> Text:
    """Make a text ready in a folder, or take it from there.

    Args:
      name: its name.
      path: a text file, a folder of text files, or a folder in OSCAR's layout. A blank line ends a document of a text
        file; in a file without blank lines, each line is a document.
      folder: where its files go.
      vocab_size: tokens of the ByteLevelBPE that is trained on it.
      seq_len: tokens S of a held-out row.
      rows: held-out rows R at most.
      megabytes: most characters of training text, in millions.

    Raises:
      SystemExit: the folder holds the text with other sizes, or the text has too few documents.
    """
    text = Text(folder)
    asked = {
        "name": name, "path": str(path), "vocab_size": vocab_size, "seq_len": seq_len, "rows": rows,
        "megabytes": megabytes,
    }  # fmt: skip
    if (folder / DONE).exists():
        if other := {key: text.facts[key] for key in asked if text.facts[key] != asked[key]}:
            raise SystemExit(f"{folder} was made with {other}; set the same, or another --out")
        return text
    folder.mkdir(parents=True, exist_ok=True)
    is_held_out = HeldOut(HELD_OUT)
    documents = sorted((d for d in _documents(path)), key=_order)
    held = [d for d in documents if is_held_out(d)]
    if not held or len(held) == len(documents):
        raise SystemExit(
            f"--text={name}={path}: no document of {len(documents)} is held out; give a text of more documents"
        )
    train = _first([d for d in documents if not is_held_out(d)], int(megabytes * 1e6))
    text.train.write_text("\n\n".join(train), encoding="utf-8")
    _train_tokenizer(train, vocab_size, text.tokenizer)
    tokens, labels = _mask(text.tokenizer, _held_out_rows(load(str(text.tokenizer)), held, seq_len, rows))
    np.savez(folder / "held_out.npz", tokens=tokens, labels=labels)
    predicted = labels[labels != IGNORED]
    counted = joined(load(str(text.tokenizer)), _first(train, COUNTED))
    facts = {
        "documents": len(train),
        "characters": sum(map(len, train)),
        "predictions": len(predicted),
        "frequency_loss": frequency_loss(predicted, np.bincount(counted, minlength=vocab_size)),
    }
    (folder / DONE).write_text(json.dumps(asked | facts, indent=2) + "\n")
    return text


def joined(tokenizer: Loaded, documents: Sequence[str]) -> np.ndarray:
    """Documents as ids, with <s> and </s> around each, end to end, int32 [T]."""
    first, last = np.array([tokenizer.special.cls], np.int32), np.array([tokenizer.special.sep], np.int32)
    return np.concatenate([part for ids in tokenizer.encode(documents) for part in (first, ids, last)])


def _documents(path: Path) -> Iterator[str]:
    """The documents of a file or folder, each without blank lines."""
    texts = [path] if path.is_file() else sorted(path.glob("*.txt*"))
    where = str(path) if path.is_file() else f"{path}/*.txt*" if texts else str(path)
    layout = (
        {"source": "files", "txt_documents": _end_of_document(texts[0])} if texts else {"source": "oscar"}
    )
    for document in training_documents(DataConfig(path=where, eval_fraction=0.0, **layout)):
        if kept := "\n".join(line for line in document.splitlines() if line.strip()):
            yield kept


def _end_of_document(file: Path) -> str:
    """What ends a document of a text file: a blank line if its first lines have one between them, else each line."""
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as opened:
        first = [line.strip() for line in itertools.islice(opened, LOOKED_AT)]
    return "blank_line" if b"" in first[:-1] else "lines"


def _order(document: str) -> bytes:
    """A key that puts documents into an order that has nothing to do with their source's."""
    return hashlib.blake2b(document.encode("utf-8", "replace"), digest_size=8, person=b"order").digest()


def _first(documents: Sequence[str], characters: int) -> list[str]:
    """The first documents, up to so many characters."""
    total = np.cumsum([len(d) for d in documents])
    return list(documents[: max(1, int(np.searchsorted(total, characters, side="right")))])


def _train_tokenizer(documents: Sequence[str], vocab_size: int, folder: Path) -> None:
    from tokenizers import AddedToken, ByteLevelBPETokenizer, processors
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    # The mask token takes the space before it, as RoBERTa's does: it stands for a token that begins with a space.
    special: list[str | AddedToken] = [*SPECIAL[:-1], AddedToken(SPECIAL[-1], lstrip=True, special=True)]
    bpe.train_from_iterator(
        documents, vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False
    )
    last, first = (("</s>", SPECIAL.index("</s>")), ("<s>", SPECIAL.index("<s>")))
    bpe.post_processor = processors.RobertaProcessing(last, first, add_prefix_space=False)
    roles = zip(("bos", "pad", "eos", "unk", "mask", "cls", "sep"), (*SPECIAL, "<s>", "</s>"))
    PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, **{f"{role}_token": token for role, token in roles}
    ).save_pretrained(folder)


def _held_out_rows(tokenizer: Loaded, documents: Sequence[str], seq_len: int, rows: int) -> np.ndarray:
    """Held-out documents end to end, cut into rows; rows are left out evenly if there are too many."""
    ids = joined(tokenizer, documents)
    there = ids[: len(ids) // seq_len * seq_len].reshape(-1, seq_len)
    return there[np.linspace(0, len(there) - 1, min(rows, len(there))).round().astype(int)]


def _mask(tokenizer: Path, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask rows once by transformers' own collation."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, set_seed

    collate = DataCollatorForLanguageModeling(
        AutoTokenizer.from_pretrained(tokenizer), mlm_probability=RATE, return_tensors="np"
    )
    set_seed(1)
    batch = collate([{"input_ids": row.tolist()} for row in rows])
    return np.asarray(batch["input_ids"], np.int32), np.asarray(batch["labels"], np.int32)
