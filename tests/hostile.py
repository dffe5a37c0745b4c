"""Names that users may give to classes, files and texts, and that some output takes for its own language."""

NAMES = (
    "$", "$$", r"$\frac$", "a_{b}", "_hidden", "[red]", "[/]", "[E1]", "[bold", "\\", "\\[", ":smile:", "@someone",
    "no", "yes", "null", "~", "1.0", "1e5", "0x1F", "-", "---", ": #", "key: value", "- item", "#", "&a", "*b", "!c",
    '"', "'", "it's", "a|b", r"a\|b", "|", "`", "``a`b``", "*bold*", "_it_", "<script>alert(1)</script>", "&amp;",
    "[text](http://x.y)", "![](x)", "# heading", "1. item", "{curly}", "%s", "{0}", " padded ", "a\nb", "tab\there",
    "\x1b[31m", "\u2028", "café", "cafe\u0301", "猫", "🦖", "עברית", "x" * 300,
)  # fmt: skip

ORDERS = (
    "\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x07", "\x08\x08", "\r", "\x0b", "\x7f", "\u202edrawer", "\u2066x\u2069",
    "\x1b]8;;http://x.y\x1b\\link\x1b]8;;\x1b\\", "[red]\x1b[0m[/]", "\u2028", "\ud800",
)  # fmt: skip
"""Texts that would have a terminal do something, or put other text in another order."""
