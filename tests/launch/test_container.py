"""The image of a run: its Dockerfile is clean, and nothing but code goes into it."""

import subprocess
import sys
import tomllib
from pathlib import Path

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


def test_the_image_has_every_package_and_nothing_that_is_not_named():
    first, *others = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    named = {line[1:].strip("/") for line in others if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert first == "*"
    assert named == {*packages, "LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    assert all((ROOT / name).exists() for name in named)
