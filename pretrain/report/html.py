"""HTML of a report. Every text becomes markup in one place, `text`, which escapes it.

The page is well-formed XML too, so that a strict parser can check it. It has no script, and its policy allows none.
"""

import html
from collections.abc import Mapping, Sequence
from typing import NewType

from base import formatting

Markup = NewType("Markup", str)
"""HTML that may be put into a page as it is."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #d9dee5; --back: #ffffff; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa5b4; --line: #333c49; --back: #12161c; --card: #1a2029; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { margin-bottom: .6rem; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  max-width: 32rem; white-space: pre-wrap; overflow-wrap: break-word; }
td { min-width: 4.5rem; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; background: var(--card); border-radius: .4rem; min-width: 0; max-width: 36rem;
  overflow-x: auto; }
figure.broad { max-width: 56rem; }
figure.broad svg { min-width: 36rem; }
figcaption { font-weight: 600; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve { fill: none; stroke-width: 1.6; }
svg .faint { opacity: .45; stroke-width: 1; }
svg .dashed { stroke-dasharray: 5 4; }
svg .soft { fill: var(--soft); }
ul.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; margin: .4rem 0; padding: 0;
  font-size: .9rem; }
ul.legend li { overflow-wrap: anywhere; }
ul.legend span { display: inline-block; width: .9rem; height: .25rem; margin-right: .4rem; vertical-align: middle; }
.axes > input { position: absolute; opacity: 0; }
.axes > label { display: inline-block; padding: .15rem .8rem; border: 1px solid var(--line); cursor: pointer;
  font-size: .9rem; }
.axes > input:checked + label { background: var(--ink); color: var(--back); }
.axes > input:focus-visible + label { outline: 2px solid var(--soft); }
.axes > .axis { display: none; margin-top: .6rem; }
details summary { cursor: pointer; color: var(--soft); margin: .4rem 0; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
PALETTE = ("#2f6fae", "#c44e52", "#4c9a5b", "#8a63b8", "#c9812b", "#1f9aa0", "#b0578d", "#7a7a7a")
"""Colours of runs; they are used again after the last."""


def text(value: object) -> Markup:
    """A text as markup: it is shown as it is written, with control characters as Python's escapes."""
    return Markup(html.escape(formatting.visible(str(value)), quote=True))


def join(parts: Sequence[Markup]) -> Markup:
    """Pieces of markup, one after another."""
    return Markup("\n".join(parts))


def element(tag: str, content: Markup, **attributes: object) -> Markup:
    """An element; `class_` is its class, and values are escaped."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items()
    )
    return Markup(f"<{tag}{named}>{content}</{tag}>")


def paragraph(said: object, *, note: bool = False) -> Markup:
    """A paragraph of a text."""
    return element("p", text(said), **({"class_": "note"} if note else {}))


def section(title: str, *content: Markup) -> Markup:
    """A part of the page under a heading; nothing if it has no content."""
    inner = [part for part in content if part]
    return element("section", join([element("h2", text(title)), *inner])) if inner else Markup("")


def table(head: Sequence[object], rows: Sequence[Sequence[object]], *, numbers: bool = True) -> Markup:
    """A table of texts.

    Args:
      head: the names of the columns.
      rows: their values.
      numbers: whether all columns but the first stand to the right.
    """

    def row(tag: str, cells: Sequence[object]) -> Markup:
        kinds = [{"class_": "number"} if numbers and index else {} for index in range(len(cells))]
        return element("tr", join([element(tag, text(cell), **kind) for cell, kind in zip(cells, kinds)]))

    body = [row("td", cells) for cells in rows]
    inner = element("thead", row("th", head)) + (element("tbody", join(body)) if body else "")
    return element("div", element("table", Markup(inner)), class_="wide") if body else Markup("")


def folded(title: str, content: Markup) -> Markup:
    """Content that is shown on a click."""
    return element("details", join([element("summary", text(title)), content])) if content else Markup("")


def legend(names: Sequence[str]) -> Markup:
    """The colours of runs, by their names; nothing for a single run."""
    items = [
        element("li", Markup(element("span", Markup(""), style=f"background: {colour(index)}") + text(name)))
        for index, name in enumerate(names)
    ]
    return element("ul", join(items), class_="legend") if len(items) > 1 else Markup("")


def colour(index: int) -> str:
    """The colour of a run."""
    return PALETTE[index % len(PALETTE)]


def by_axis(name: str, charts: Mapping[str, Markup]) -> Markup:
    """The same charts against several axes, of which the reader chooses one, without a script.

    Args:
      name: a word that tells these charts from others of the page.
      charts: the charts by the name of their axis.
    """
    shown = {axis: content for axis, content in charts.items() if content}
    if not shown:
        return Markup("")
    parts, rules = [], []
    for index, axis in enumerate(shown):
        key = f"{name}-{index}"
        checked = ' checked="checked"' if not index else ""
        parts.append(Markup(f'<input type="radio" name="{name}" id="{key}"{checked}/>'))
        parts.append(Markup(f'<label for="{key}">{text(axis)}</label>'))
        rules.append(f"#{key}:checked ~ .{key} {{ display: block; }}")
    parts += [
        element("div", content, class_=f"axis {name}-{index}") for index, content in enumerate(shown.values())
    ]
    return join([Markup(f"<style>{' '.join(rules)}</style>"), element("div", join(parts), class_="axes")])


def page(title: str, *content: Markup) -> str:
    """A whole page."""
    inner = "\n".join(part for part in content if part)
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>\n'
        '<link rel="icon" href="data:,"/>\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{text(title)}</h1>\n{inner}\n"
        "</body>\n</html>\n"
    )
