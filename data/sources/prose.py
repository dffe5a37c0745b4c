"""Extracts sentences from documentation: docstrings and readmes without code, tables, parameter lists and markup."""

import inspect
import re
from collections.abc import Iterator

MIN_CHARS = 60
MIN_WORDS = 9
MIN_LETTERS = 0.88  # share of letters and spaces; code and formulas have fewer
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+", "the a an of to in is are be and or for with that this it as by on not if when from which can"
    )
)

_FENCE = re.compile(r"\s*(```|~~~)")
_RULE = re.compile(r"\s*([=\-~^\"#*+`.]{3,}|[=\-+| ]{4,})\s*$")
_HEADING = re.compile(r"\s*[A-Z]\w*( \w+)?:$")  # Args:, Returns:, See also:
_CODE = re.compile(r"\s*(>>>|\.\.\.|\$ |In \[|#|@|\||%|<|\.\. )")
_ITEM = re.compile(
    r"\s*([-*+•] +|\(?\d{1,2}[.)] +|:\w[^:]*:\s+|\*{0,2}[\w`.]+(, [\w`.]+)*( \([^)]*\))?: +(?=\S))"
)
_LITERAL = re.compile(r"(::|\.\. [\w-]+::.*)$")
_MARKED = re.compile(r"[`*\[]|::$")
_MARKUP = (
    (re.compile(r"\[([^\]]*)\]\((?:[^()]|\([^()]*\))*\)"), r"\1"),  # [text](link)
    (re.compile(r":[\w:+-]+:`(?:[^`<]*<)?[~!]?([^`<>]*)>?`"), r"\1"),  # :role:`text`
    (re.compile(r"`([^`<]+) <[^`>]+>`_{0,2}"), r"\1"),  # `text <link>`_
    (re.compile(r"`+([^`]*)`+_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])\*{1,2}([^*\s][^*]*)\*{1,2}(?![\w*])"), r"\1"),
    (re.compile(r" ?\[[\w#-]+\]_"), ""),  # footnote
    (re.compile(r"::$"), ":"),
)


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring or readme that are English prose, each on one line and without markup."""
    literal: int | None = None  # indentation of the line that opened a literal block
    fenced = False
    for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(text)):
        lines = block.splitlines()
        fences = sum(bool(_FENCE.match(line)) for line in lines)
        if fences or fenced:
            fenced ^= fences % 2 == 1
            continue
        if not lines:
            continue
        if literal is not None and _indent(lines[0]) > literal:
            continue
        literal = _indent(lines[-1]) if _LITERAL.search(lines[-1]) else None
        for unit in _units(lines):
            sentence = " ".join(unit)
            if len(sentence) >= MIN_CHARS and is_prose(sentence := strip_markup(sentence)):
                yield sentence


def strip_markup(text: str) -> str:
    """A text without reStructuredText and Markdown markup; each white space becomes one space."""
    text = " ".join(text.split())
    if _MARKED.search(text):
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    return text


def is_prose(text: str) -> bool:
    """Whether one line of text consists of one or more English sentences."""
    if len(text) < MIN_CHARS or not (text[0].isupper() or text[0] in "\"'(") or text[-1] not in ".!?:)\"'":
        return False
    if "\\" in text or "{" in text or "://" in text:
        return False
    letters = sum(map(str.isalpha, text)) + text.count(" ")
    words = text.lower().split()
    return (
        letters >= MIN_LETTERS * len(text)
        and len(words) >= MIN_WORDS
        and sum(word in FUNCTION_WORDS for word in words) * 6 >= len(words)
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _units(lines: list[str]) -> Iterator[list[str]]:
    """Yield runs of lines that are one paragraph; they end at list items, new indentation, headings and code."""
    unit: list[str] = []
    indent: int | None = None  # of the unit; None after an item's first line: the next line sets it
    for line in lines:
        if _RULE.match(line):
            unit = []  # an underlined heading
        elif _CODE.match(line) or _HEADING.match(line):
            yield unit
            unit = []
        elif item := _ITEM.match(line):
            yield unit
            unit, indent = [line[item.end() :]], None
        elif unit and (indent is None or indent == _indent(line)):
            unit.append(line)
            indent = _indent(line)
        else:
            yield unit
            unit, indent = [line], _indent(line)
    yield unit
