"""The image of a run: its Dockerfile is clean, and nothing but code goes into it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.launch.secret_names import CODE, SECRETS

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_dockerfile_is_clean():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_versions_are_the_pinned_ones_and_the_user_is_not_root():
    lines = DOCKERFILE.splitlines()
    (base,) = (line for line in lines if line.startswith("FROM "))
    assert base.removeprefix("FROM python:").split("-")[0].count(".") == 2
    assert [line for line in lines if "pip install" in line] == [
        'RUN pip install -c constraints.txt -e ".${EXTRA:+[$EXTRA]}"'
    ]
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


def lets_in(path):
    """Whether .dockerignore lets a file into the image: the last pattern that fits it, or a folder of it, decides."""
    parts = path.split("/")
    paths, let_in = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)], True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.compile(regex(line.removeprefix("!").strip("/")))
            if any(pattern.fullmatch(path) for path in paths):
                let_in = line.startswith("!")
    return let_in


def regex(pattern):
    """A pattern of Docker as a regular expression."""
    for docker, python in {"**/": "<any>", "*": "[^/]*", ".": r"\.", "<any>": "(.*/)?"}.items():
        pattern = pattern.replace(docker, python)
    return pattern


def test_the_image_has_every_package_and_nothing_else_of_the_repository():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    code = [path for name in packages for ending in ("*.py", "*.sh") for path in (ROOT / name).rglob(ending)]
    assert [path for path in code if not lets_in(str(path.relative_to(ROOT)))] == []
    others = {path.name for path in ROOT.iterdir()} - packages
    expected = {"LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    assert {name for name in others if lets_in(name)} == expected
    assert not lets_in("tests/launch/test_container.py") and not lets_in("docs/gpu.md")


@pytest.mark.parametrize("folder", ["", "configs/", "launch/", "data/sources/"])
def test_secrets_stay_out_of_the_image_and_code_does_not(folder):
    assert [name for name in SECRETS if lets_in(folder + name)] == []
    modules = [name for name in CODE if name.endswith(".py")] if folder else ["configs/credentials.py"]
    assert [name for name in CODE if lets_in(folder + name)] == modules
    left = (
        ".git/config",
        ".venv/lib/x.py",
        "__pycache__/x.pyc",
        "words.json",
        "HF_TOKEN",
        "id_rsa",
        "my-secrets",
    )
    assert [name for name in left if lets_in(folder + name)] == []
