"""The shape of the code base: which way packages import, where heavy libraries may appear, how large a file may be."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
# What a package may import of the others; it may always import itself.
ARROWS: dict[str, set[str]] = {
    "base": set(),
    "data": {"base"},
    "tokenizer": {"base", "data"},
    "pretrain": {"base", "data", "tokenizer"},
    "finetune": {"base", "data", "tokenizer", "pretrain"},
    "unmask": {"base", "data", "tokenizer", "pretrain", "finetune"},
    "configs": set(),
    "launch": {"base"},
    "benchmarks": {"base", "data", "tokenizer", "pretrain", "finetune"},
}
# A stage inside a package, which may import more; the rest of the package does not import it.
STAGES = {"data/prepare": {"base", "data", "tokenizer"}}
PACKAGES = [name for name in ARROWS if (REPOSITORY / name).is_dir()]
FILES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))

# Libraries that only one file may import, so that what depends on their API is in one place.
SOLE_IMPORTERS = {
    "orbax": "pretrain/runtime/checkpointer.py",
    "clu": "pretrain/reports/tensorboard_events.py",
    "tensorflow": "pretrain/reports/tensorboard_events.py",
}
# The project runs without torch, but for files that need an extra; of transformers it takes the tokenizers.
PEERS = {
    "torch": ["pretrain/models/weight_files.py", "finetune/onnx.py", "finetune/onnx_embedder.py"],
    "transformers": ["tokenizer/as_transformers.py", "finetune/onnx.py", "finetune/onnx_embedder.py"],
}
# Libraries that take long to import: only inside the function that needs them.
HEAVY = {
    "clu",
    "datasets",
    "matplotlib",
    "onnxruntime",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "transformers",
}

MOST_LINES = 400


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that a piece of code imports; relative imports start with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def roots(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imported(tree)}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_the_packages_are_there():
    assert {"base", "configs", "data", "finetune", "launch", "pretrain", "tokenizer"} <= set(PACKAGES)
    assert len(FILES) > 40


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package):
    wrong = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        stage = next((stage for stage in STAGES if name_of(path).startswith(f"{stage}/")), None)
        allowed = {package, *ARROWS[package], *STAGES.get(stage or "", ())}
        apart = {each.replace("/", ".") for each in STAGES if each != stage and package != "benchmarks"}
        wrong += [
            f"{name_of(path)} imports {name}"
            for name in imported(parse(path))
            if name.split(".")[0] in {*ARROWS, "tests", ""} - allowed
            or ".".join(name.split(".")[:2]) in apart
        ]
    assert wrong == []


def test_configs_import_ml_collections_only():
    found = {name for path in FILES if path.parent.name == "configs" for name in roots(parse(path))}
    assert found <= {"ml_collections", "configs"}


@pytest.mark.parametrize(("library", "importer"), SOLE_IMPORTERS.items())
def test_a_library_with_one_importer_has_no_other(library, importer):
    importers = [name_of(path) for path in FILES if library in roots(parse(path))]
    assert importers == [importer]


@pytest.mark.parametrize(("library", "expected"), PEERS.items())
def test_the_project_runs_without_what_its_tests_compare_with(library, expected):
    importers = [
        name_of(path)
        for path in FILES
        if library in roots(parse(path)) and not name_of(path).startswith("benchmarks/")
    ]
    assert importers == expected


def test_slow_imports_are_inside_functions():
    wrong = []
    for path in FILES:
        outside = [node for node in parse(path).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        wrong += [f"{name_of(path)}: {name}" for node in outside for name in HEAVY & roots(node)]
    assert wrong == []


def test_every_module_says_what_it_is_for():
    assert [name_of(path) for path in [*FILES, *TESTS] if not ast.get_docstring(parse(path))] == []


def test_no_file_is_too_long():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*FILES, *TESTS]}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_every_package_is_installed():
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        installed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    there = [name_of(path.parent).replace("/", ".") for path in FILES if path.name == "__init__.py"]
    assert sorted(installed) == sorted(there)
