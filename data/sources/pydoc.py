"""The embedded default corpus: the documentation of Python's standard library and of this project's dependencies.

`ast` reads the docstrings from source files: nothing is imported, executed or downloaded. The corpus depends on the
installed versions. It is the same in every run on one machine.
"""

import ast
import functools
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from base.errors import UserError
from data.config import SourceConfig
from data.source_protocol import Record
from data.sources.documents import FlawError, Gate, digest, refuse_metadata_filters
from data.sources.prose import paragraphs

# Packages with much prose for their parsing time. The models of transformers, and tensorflow, repeat their texts.
PACKAGES = (
    "absl", "clu", "datasets", "etils", "flax", "fsspec", "grain", "huggingface_hub", "jax", "jaxtyping", "keras",
    "matplotlib", "ml_collections", "numpy", "optax", "orbax", "pandas", "pyarrow", "rich", "scipy",
)  # fmt: skip
SHARDS = 32
TOPICS_FOLDER = "pydoc_data"  # the language reference, in one table of plain strings
MIN_FILE_BYTES = 2000
MIN_QUOTES = 6
MIN_TEXT_CHARS = 120
SKIPPED_FOLDERS = re.compile(
    r"^(tests?|testing|_?vendor(ed)?|site-packages|dist-packages|idlelib|lib2to3|.*_pb2?|__pycache__|\..*)$"
)
SKIPPED_FILES = re.compile(r"^(test_.*|.*_tests?|.*_pb2(_grpc)?|conftest)\.py$")


class _Module(NamedTuple):
    name: str
    path: Path
    size: int


class PydocSource:
    """One document for each module or readme: its docstrings' prose, one paragraph a line, in the source's order.

    Raises:
      UserError: filters on metadata are set, or this Python is installed without source files.
    """

    def __init__(self, config: SourceConfig, where: str = "config.data"):
        """List the modules; `where` is the path of `config` in messages."""
        refuse_metadata_filters(config, where)
        self._config = config
        self._gate = Gate(config, where)
        self._modules = _modules()
        if not self._modules:
            raise UserError(
                f"{where}.source='pydoc': this Python has no source files to read; set {where}.source to files or hub"
            )

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards; each has an equal share of the modules."""
        return [f"modules-{index:02d}-of-{SHARDS}" for index in range(SHARDS)]

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Records of one shard from `start` on; a module with little prose is dropped as 'no prose'."""
        for number, module in enumerate(self._modules[shard::SHARDS]):
            if number < start:
                continue
            try:
                text = _text(module)
            except (OSError, ValueError, SyntaxError, RecursionError) as error:
                yield self._gate.unreadable(
                    number, str(module.path), FlawError("not Python", type(error).__name__)
                )
                continue
            if len(text) < MIN_TEXT_CHARS:
                yield Record(number, "", "no prose")
            else:
                yield self._gate.document(number, text)

    def fingerprint(self) -> str:
        """Hex digest of the modules' names and sizes, and the filters."""
        return digest(self._config, [(module.name, module.size) for module in self._modules])


def _modules() -> list[_Module]:
    """Every source file and readme of the corpus, sorted by name."""
    modules: list[_Module] = []
    standard = Path(sysconfig.get_path("stdlib"))
    modules += _walk(standard, standard)
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in map(Path, spec.submodule_search_locations or [] if spec else []):
            modules += _walk(folder, folder.parent)
            for readme in folder.parent.glob(f"{package}[-_]*.dist-info/METADATA"):
                modules.append(_Module(f"{package}/METADATA", readme, readme.stat().st_size))
    return sorted(modules)


def _walk(folder: Path, root: Path) -> Iterator[_Module]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not SKIPPED_FOLDERS.match(name)]
        for name in files:
            if name.endswith(".py") and not SKIPPED_FILES.match(name):
                path = Path(parent, name)
                size = path.stat().st_size
                if size >= MIN_FILE_BYTES:
                    yield _Module(path.relative_to(root).as_posix(), path, size)


@functools.cache
def _text(module: _Module) -> str:
    """A document. A run reads the corpus several times, and parsing takes half a minute; all documents take 7 MB."""
    return "\n".join(dict.fromkeys(_prose(module.path)))


def _prose(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    if path.name == "METADATA":
        texts = iter(b"\n".join(content.splitlines()).decode("utf-8").split("\n\n", 1)[1:])
    else:
        # Parsing takes most of the time, so files with hardly any docstring are skipped.
        quotes = content.count(b'"""') + content.count(b"'''")
        if quotes < MIN_QUOTES and path.parent.name != TOPICS_FOLDER:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's sources have invalid escapes
            texts = _texts(ast.parse(content).body)
    for text in texts:
        if len(text) >= MIN_TEXT_CHARS:
            yield from paragraphs(text)


def _texts(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield docstrings and texts in similar places: arguments of calls such as add_newdoc, tables of topics."""
    for node in body:
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text
            case ast.Expr(value=ast.Call(args=parts)) | ast.Assign(value=ast.Dict(values=parts)):
                yield from (
                    part.value
                    for part in parts
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _texts(node.body[:1])
            case ast.ClassDef() | ast.If() | ast.Try():
                yield from _texts(node.body)
