"""Kubernetes objects as YAML. A text that a parser could read as a number or a boolean is quoted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

PLAIN = r"-{0,2}[A-Za-z][\w./:=,@+-]+"
"""Texts that every version of YAML reads as text. Words such as `no` are the exception; PyYAML detects them itself."""

TEXT = "tag:yaml.org,2002:str"


class _Dumper(yaml.SafeDumper):
    """A dumper that writes no anchors, and quotes ambiguous texts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = (
        re.fullmatch(PLAIN, value, re.ASCII) and dumper.resolve(yaml.ScalarNode, value, (True, False)) == TEXT
    )
    return dumper.represent_scalar(TEXT, value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def dump(objects: Sequence[Mapping[str, Any]]) -> str:
    """Write the objects as the YAML documents of a manifest. Fields keep their order."""
    return yaml.dump_all(
        [dict(one) for one in objects],
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
        explicit_start=True,
    )


def literal(text: str) -> str:
    """Escape a text for `command`, `args` or `env`, because Kubernetes replaces $(NAME) there."""
    return text.replace("$", "$$")
