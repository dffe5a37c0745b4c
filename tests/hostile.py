"""Names that users may give to classes, files and texts, and that some output takes for its own language."""

NAMES = (
    "$", "$$", r"$\frac$", "a_{b}", "_hidden", "[red]", "[/]", "[E1]", "[bold", "\\", "\\[", ":smile:", "@someone",
    "no", "yes", "null", "~", "1.0", "1e5", "0x1F", "-", "---", ": #", "key: value", "- item", "#", "&a", "*b", "!c",
    '"', "'", "it's", "a|b", r"a\|b", "|", "`", "``a`b``", "*bold*", "_it_", "<script>alert(1)</script>", "&amp;",
    "[text](http://x.y)", "![](x)", "# heading", "1. item", "{curly}", "%s", "{0}", " padded ", "a\nb", "tab\there",
    "\x1b[31m", "\u2028", "café", "cafe\u0301", "猫", "🦖", "עברית", "x" * 300,
)  # fmt: skip
