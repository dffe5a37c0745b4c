"""The archive of the project's code for the machines: a git commit, or the working tree with its changes.

Files whose names look like secrets are left out. A file with the value of a secret in it stops the launch.
`python -m launch.archive FILE` writes the newest commit to a file, for launch/tpu_pod.sh.
"""

import gzip
import hashlib
import io
import os
import posixpath
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from base.command_line import run
from base.errors import UserError
from launch.config import LaunchConfig
from launch.subprocesses import ROOT, say

LARGEST = 200 * 2**20
"""Most bytes of source code; a larger working tree has data in it."""
BACKUP = r"(~|\.(bak|backup|old|orig|save|swp|\d+))*"
KEY = re.compile(
    r"((.+[._-])?id_(rsa|dsa|ecdsa|ed25519)(_sk)?([._-].+)?(?<!\.pub)"
    rf"|.+\.(pem|key|p8|p12|pfx|ppk|jks|keystore|kdbx|tfstate|tfvars)){BACKUP}",
    re.IGNORECASE | re.DOTALL,
)
"""Usual file names of private keys."""
SECRET = re.compile(
    r"(\.env([._-].+)?|.+\.env|\.envrc|[._]netrc|\.npmrc|\.yarnrc(\.yml)?|\.pypirc|\.pgpass|\.my\.cnf|\.htpasswd|\.boto"
    r"|\.s3cfg|\.git-credentials|\.vault-token|\.dockercfg|\.(aws|azure|docker|gcloud|gnupg|huggingface|kaggle|kube|ssh)"
    r"|kaggle\.json|.*(client[_-]?secret|service[_-]?account).*\.json|.*access[_-]?(keys?|tokens?)\.(csv|db)|rootkey\.csv"
    r"|(.*credentials?.*|(.*[._-])?secrets?([._-].*)?|\.?token|(.*[._-])?(hf|access|auth|github)[_-]?token"
    r"|(.*[._-])?(passwords?|api[_-]?keys?))\.(json|ya?ml|toml|ini|cfg|csv|txt|db)"
    rf"|\.?(credentials?|secrets?|passwords?|api[_-]?keys?|((hf|access|auth|github)[_-]?)?token|stored_tokens)){BACKUP}",
    re.IGNORECASE | re.DOTALL,
)
"""Usual names of other files and folders with secrets. All files in such a folder are left out too."""
TEMPLATE = re.compile(
    r"(.*[._-])?(example|sample|template|dist)(\.(env|json|ya?ml|toml|ini|cfg|csv|txt|md))?",
    re.IGNORECASE | re.DOTALL,
)
"""Names of templates, which only show the form of a secret: .env.example, credentials.sample.json, but not
www.example.com.env."""
CODE = re.compile(r"\.(pyi?|pyx|c|cc|cpp|cu|cuh|h|hpp|rs|go|java|js|ts)$", re.IGNORECASE)
"""Suffixes of code files: token/reader.py holds no secret. Shell scripts are not in the list: they may set a secret."""
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
"""First line of a private key, also inside the JSON of a service account. The file may have any name."""
MOST_NAMED = 8
"""Most files that a message names."""
MOST_LINKS = 8
"""Most symbolic links that are followed from one name."""
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
SHORTEST_SECRET = 8
"""Fewest characters of a value that is searched for; shorter values occur in files by chance."""


@dataclass(frozen=True)
class Archive:
    """The code that goes to the machines."""

    content: bytes
    digest: str
    """SHA-256 of the content. A machine reports the digest of the archive that it has."""
    label: str
    """Description of the source for people: 'commit 81c28ee'."""
    names: frozenset[str]
    """Paths of the files in the archive."""


def main(argv: Sequence[str]) -> int:
    """Write the archive of the newest commit to the file named on the command line."""
    if len(argv) != 2 or argv[1].startswith("-"):
        raise UserError("python -m launch.archive takes one argument: the file to write the archive to")
    content = make_archive(LaunchConfig(commit="HEAD"), ROOT).content
    try:
        Path(argv[1]).write_bytes(content)
    except OSError as error:
        raise UserError(f"{argv[1]} cannot be written: {error.strerror}; name another file") from error
    return 0


def make_archive(config: LaunchConfig, root: Path, environment: Mapping[str, str] = os.environ) -> Archive:
    """Archive the code that `config` names.

    Args:
      config: the launch config; `source` chooses a commit or the working tree, `commit` the commit.
      root: the checkout.
      environment: environment variables; the values of variables named like secrets must not be in the code.

    Raises:
      UserError: `root` is not a checkout, the commit is unknown, the working tree has uncommitted changes with
        source='commit', the working tree is too large, or a file holds a secret.
    """
    _git(root, "rev-parse", "--git-dir")
    if config.source == "archive":
        files, label = dict(_tree(root)), "the working tree"
    else:
        commit = _commit(config, root)
        files, label = dict(_committed(root, commit)), f"commit {commit[:7]}"
    files = _without_keys(files)
    _refuse_secrets(files, environment)
    content = _pack(files)
    return Archive(content, hashlib.sha256(content).hexdigest(), label, frozenset(files))


def _commit(config: LaunchConfig, root: Path) -> str:
    """The full hash of the commit that the config names."""
    name = config.commit or "HEAD"
    resolved = _run(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if resolved.returncode or name.startswith("-"):
        raise UserError(f"config.commit={name!r} is no commit, branch or tag of {root}")
    if not config.commit:
        dirty = os.fsdecode(_git(root, "status", "--porcelain")).splitlines()
        if dirty:
            more = f" and {len(dirty) - 1} more" if len(dirty) > 1 else ""
            raise UserError(
                f"the working tree has changes that are not committed ({dirty[0][3:]}{more}): commit them, send the "
                "tree with its changes by --config.source=archive, or name a commit by --config.commit=HEAD"
            )
    return resolved.stdout.decode().strip()


def _committed(root: Path, commit: str) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """The files of a commit. A link to one of them becomes a copy of that file; other links are left out."""
    with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", "--format=tar", commit))) as tar:
        members = {member.name: member for member in tar.getmembers() if member.isfile() or member.issym()}
        sources = {name: _followed(name, members) for name in members}
        for name in _without_secrets([name for name, source in sources.items() if source is not None]):
            source = sources[name]
            if source is not None and not is_secret(source.name) and (file := tar.extractfile(source)):
                yield name, (file.read(), source.mode)


def _followed(name: str, members: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The file of a commit that a name refers to, through links; None if a link leads to no file of the commit."""
    member = members.get(name)
    for _ in range(MOST_LINKS):
        if member is None or not member.issym():
            return member
        member = members.get(
            posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))
        )
    return None


def _tree(root: Path) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """The files that git tracks, and the new files that git does not ignore."""
    listed = os.fsdecode(_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"))
    # A name that is not a plain file is deleted, a submodule, or a link that may lead out of the tree.
    names = [name for name in set(listed.split("\0")) - {""} if _is_plain(root / name)]
    size = 0
    for name in _without_secrets(names):
        path = root / name
        size += path.stat().st_size
        if size > LARGEST:
            raise UserError(
                f"the working tree has more than {LARGEST >> 20} MB of files that git does not ignore ({name} among "
                "them): data belongs in a bucket; move it, or name it in .gitignore"
            )
        yield name, (path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def is_secret(name: str) -> bool:
    """Whether a part of a path has a usual name of a secret. In the path of a code file, only hidden names count."""
    code = CODE.search(name)
    return any(
        KEY.fullmatch(part) or (SECRET.fullmatch(part) and not TEMPLATE.fullmatch(part))
        for part in name.split("/")
        if not code or part.startswith(".")
    )


def _without_secrets(names: Iterable[str]) -> list[str]:
    """The paths without names that look like secrets, sorted. A message to the user lists the omitted paths."""
    left_out = sorted(name for name in names if is_secret(name))
    _tell(left_out, "such files often hold secrets")
    return sorted(set(names) - set(left_out))


def _without_keys(files: Mapping[str, tuple[bytes, int]]) -> dict[str, tuple[bytes, int]]:
    """The files without private keys. A message lists the omitted files. Code stays: it may only mention keys."""
    left_out = sorted(
        name for name, (content, _) in files.items() if not CODE.search(name) and PRIVATE_KEY.search(content)
    )
    _tell(left_out, "a private key is in them")
    return {name: file for name, file in files.items() if name not in left_out}


def _tell(left_out: Sequence[str], because: str) -> None:
    if left_out:
        shown = ", ".join(name if name.isprintable() else repr(name) for name in left_out[:MOST_NAMED])
        more = f" and {len(left_out) - MOST_NAMED} more" if len(left_out) > MOST_NAMED else ""
        say(f"left out, because {because}: {shown}{more}")


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
                    f"{name} holds the value of {variable}, and would go to the machines: remove it there, and let the "
                    "machines read it from Secret Manager (config.secrets)"
                )


def _pack(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Pack files into a tar.gz. The same files give the same bytes at any time and on any machine."""
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


def _git(root: Path, *arguments: str) -> bytes:
    """Run git, and return its output.

    Raises:
      UserError: git fails.
    """
    done = _run(root, *arguments)
    if done.returncode:
        raise UserError(
            f"git cannot read {root}, the code for the machines: {os.fsdecode(b' '.join(done.stderr.split()))}"
        )
    return done.stdout


def _run(root: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    argv = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise UserError(
            "git is not installed; the launcher needs it to list the code for the machines"
        ) from error


if __name__ == "__main__":
    run(main)
