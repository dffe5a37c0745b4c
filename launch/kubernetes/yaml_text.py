"""Kubernetes objects as YAML that every parser reads alike: what could be taken for a number or a flag is quoted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

PLAIN = r"-{0,2}[A-Za-z][\w./:=,@+-]+"
"""Texts that no version of YAML takes for anything else, unless they are words such as `no`, which PyYAML knows."""

TEXT = "tag:yaml.org,2002:str"


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, and quotes with care."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = (
        re.fullmatch(PLAIN, value, re.ASCII) and dumper.resolve(yaml.ScalarNode, value, (True, False)) == TEXT
    )
    return dumper.represent_scalar(TEXT, value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def dump(objects: Sequence[Mapping[str, Any]]) -> str:
    """The documents of a manifest, in the order of their fields."""
    return yaml.dump_all(
        [dict(one) for one in objects],
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
        explicit_start=True,
    )


def literal(text: str) -> str:
    """A text as it stands in `command`, `args` or `env`, where Kubernetes puts values in for $(NAME)."""
    return text.replace("$", "$$")
