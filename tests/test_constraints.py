"""The pinned versions: one for every declared dependency, within what is declared, from any package index."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def declared() -> list[Requirement]:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    lines = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["onnx"],
        *project["optional-dependencies"]["prepare"],
        *project["optional-dependencies"]["test"],
    ]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]


def test_pins_are_names_and_public_versions():
    assert [
        f"{name}=={version}" for name, version in pins().items() if not re.fullmatch(r"[\w.]+", version)
    ] == []


def test_every_declared_dependency_is_pinned_within_its_range():
    versions = {canonicalize_name(name): version for name, version in pins().items()}
    wrong = [
        f"{requirement} has {versions.get(canonicalize_name(requirement.name))}"
        for requirement in declared()
        if versions.get(canonicalize_name(requirement.name), "0") not in requirement.specifier
    ]
    assert wrong == []
