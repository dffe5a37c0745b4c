"""Markdown that shows users' names exactly as they are written, and the YAML header that the hub reads."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from base import formatting

_MARKUP = re.compile(r"[\\`*{}\[\]<>#|$~&@:]|(?<![^\W_])_|_(?![^\W_])")  # within a word _ is no markup
_CODE = re.compile(r"[^\s`|\\$]+( [^\s`|\\$]+)*")
_PLAIN = re.compile(r"[A-Za-z][\w ./-]*", re.ASCII)


def escape(text: str) -> str:
    """A user's text as Markdown on one line, also for use in a table. Markup in the text is shown as written."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", formatting.one_line(text))


def code(text: str) -> str:
    """A user's text as inline code."""
    simple = _CODE.fullmatch(text) and formatting.one_line(text) == text
    return f"`{text}`" if simple else f"<code>{escape(text)}</code>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are Markdown without line breaks and bars."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def front_matter(values: Mapping[str, Any]) -> str:
    """The YAML header of a model card, between its lines `---`; values that are empty are left out."""
    known = {name: value for name, value in values.items() if value not in ("", [], None)}
    text = yaml.dump(known, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    return f"---\n{formatting.visible(text)}---"  # what is escaped stands in double quotes


class _Dumper(yaml.SafeDumper):
    """Writes texts so that every version of YAML reads them as texts."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if _PLAIN.fullmatch(text) else '"'
    )


_Dumper.add_representer(str, _quoted)
