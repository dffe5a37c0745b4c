"""The project as one file for the machines: a git commit, or the working tree as it is; never a secret in it."""

import gzip
import hashlib
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from launch.config import LaunchConfig
from launch.runner import say

LARGEST = 200 * 2**20
"""Bytes of an archive of source code; more is data that was left in the working tree."""
NEVER = re.compile(
    r"(^|/)(\.env(\..*)?|\.netrc|\.pypirc|id_(rsa|dsa|ecdsa|ed25519)|\.aws|\.ssh|\.huggingface|\.kaggle"
    r"|.*\.(pem|key|p12|pfx|keystore)|.*credentials.*\.json|.*service[-_]?account.*\.json)(/|$)",
    re.IGNORECASE,
)
"""Files of the working tree that hold secrets by custom; they are left out of an archive of it."""
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
SHORTEST_SECRET = 8
"""Characters; shorter values would be found everywhere by chance."""


@dataclass(frozen=True)
class Archive:
    """The code that goes to the machines."""

    content: bytes
    digest: str
    """SHA-256, by which a machine says what it has."""
    label: str
    """What it is, for people: 'commit 81c28ee'."""
    names: frozenset[str]
    """Paths of the files in it."""


def make_archive(config: LaunchConfig, root: Path, environment: Mapping[str, str] = os.environ) -> Archive:
    """Archive the code that `config` names.

    Args:
      config: says whether a commit or the working tree, and which commit.
      root: the checkout.
      environment: values of its secret-looking variables must not be in the code.

    Raises:
      UserError: no checkout, an unknown commit, a dirty tree under source='commit', data in the tree, or a secret.
    """
    if _git(root, "rev-parse", "--git-dir") is None:
        raise UserError(f"{root} is not a git checkout; the machines are given its files as git knows them")
    if config.source == "archive":
        files, label = dict(_tree(root)), "the working tree"
    else:
        commit = _commit(config, root)
        files, label = dict(_committed(root, commit)), f"commit {commit[:7]}"
    _refuse_secrets(files, environment)
    content = _pack(files)
    return Archive(content, hashlib.sha256(content).hexdigest(), label, frozenset(files))


def _commit(config: LaunchConfig, root: Path) -> str:
    """The commit that is meant, in full."""
    name = config.commit or "HEAD"
    commit = (
        None if name.startswith("-") else _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    )
    if commit is None:
        raise UserError(f"config.commit={name!r} is no commit, branch or tag of {root}")
    if not config.commit:
        dirty = (_git(root, "status", "--porcelain") or b"").decode().splitlines()
        if dirty:
            more = f" and {len(dirty) - 1} more" if len(dirty) > 1 else ""
            raise UserError(
                f"the working tree has changes that are not committed ({dirty[0][3:]}{more}): commit them, take the "
                "tree as it is by --config.source=archive, or name what to run by --config.commit=HEAD"
            )
    return commit.decode().strip()


def _committed(root: Path, commit: str) -> Iterator[tuple[str, tuple[bytes, int]]]:
    packed = _git(root, "archive", "--format=tar", commit) or b""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            if file is not None:
                yield member.name, (file.read(), member.mode)


def _tree(root: Path) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """Files that git tracks, and new ones that it does not ignore."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or b""
    size, left_out = 0, []
    for name in sorted(set(listed.decode().split("\0")) - {""}):
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue  # deleted, a submodule, or a link that may lead out of the tree
        if NEVER.search(name):
            left_out.append(name)
            continue
        size += path.stat().st_size
        if size > LARGEST:
            raise UserError(
                f"the working tree has more than {LARGEST >> 20} MB of files that git does not ignore ({name} among "
                "them): data belongs in a bucket; move it, or name it in .gitignore"
            )
        yield name, (path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
    if left_out:
        say(f"left out, for what they may hold: {', '.join(left_out)}")


def _refuse_secrets(files: Mapping[str, tuple[bytes, int]], environment: Mapping[str, str]) -> None:
    secrets = {
        name: value.encode()
        for name, value in environment.items()
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET
    }
    for name, (content, _) in files.items():
        for variable, value in secrets.items():
            if value in content:
                raise UserError(
                    f"{name} holds the value of {variable}, and would go to the machines: take it out, and let them "
                    "read it from Secret Manager (config.secrets)"
                )


def _pack(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """The same files give the same bytes, whenever and wherever they are packed."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name in sorted(files):
            content, mode = files[name]
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode & 0o755
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints; None when it fails."""
    argv: Iterable[str] = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(list(argv), capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise UserError("git is not installed; the code for the machines is what git knows of it") from error
    return done.stdout if done.returncode == 0 else None
