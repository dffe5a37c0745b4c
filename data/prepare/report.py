"""What each step did to a corpus: one report, as JSON and as a table."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from data.prepare.config import STEPS
from data.prepare.steps import CLEAN, UNIQUE
from data.prepare.tokenizing import RUNS
from data.prepare.work import Work

Report = dict[str, Any]


def make_report(work: Work, tasks: int, sources: Sequence[str], steps: Sequence[str]) -> Report:
    """Add up the counts of all tasks: for each source and in total, the documents that each step dropped, by reason.

    Args:
      work: the folder of work.
      tasks: number of tasks of the first stage.
      sources: names of the sources.
      steps: the steps that were taken.
    """
    parts = [_empty(name, steps) for name in sources]
    for task in range(tasks):
        facts = work.json(CLEAN, task)
        part = parts[facts["source"]]
        part["read"] += facts["read"]
        _add(part["dropped by the source"], facts["dropped"])
        for name, counts in facts["steps"].items():
            step = part["steps"][name]
            for field in ("documents", "characters", "changed"):
                step[field] += counts[field]
            _add(step["dropped"], counts["dropped"])
        left, characters = facts["documents"], facts["characters"]
        duplicates = work.json(UNIQUE, task)
        for name in ("exact", "near"):
            if name in steps:
                step = part["steps"][name]
                step["documents"] += left
                step["characters"] += characters
                _add(step["dropped"], duplicates.get(name, {}))
                left -= sum(duplicates.get(name, {}).values())
        runs = work.json(RUNS, task)
        for field in ("documents", "tokens", "characters"):
            part[field] += runs[field]
    return {"steps": list(steps), "total": _total(parts, steps), "sources": parts}


def seconds(work: Work, tasks: int) -> dict[str, float]:
    """Seconds of processor time that each step took, over all tasks; they differ from one preparation to the next."""
    total: dict[str, float] = {}
    for task in range(tasks):
        facts = work.json(CLEAN, task)
        for name, counts in facts["steps"].items():
            total[name] = total.get(name, 0.0) + counts["seconds"]
        total["near"] = total.get("near", 0.0) + facts["minhash_seconds"]
        total["tokenize"] = total.get("tokenize", 0.0) + work.json(RUNS, task)["seconds"]
    return total


def report_json(report: Report) -> str:
    """The text of report.json."""
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"


def table(report: Report, times: Mapping[str, float]) -> Table:
    """The report as a table: a row for each step, and one for each of its reasons."""
    total = report["total"]
    shown = Table("step", "documents", "dropped", "share", "changed", "MB/s of a core")
    before = sum(total["dropped by the source"].values())
    shown.add_row("read", f"{total['read']:,}", f"{before:,}", _share(before, total["read"]), "", "")
    for reason, count in sorted(total["dropped by the source"].items()):
        shown.add_row(f"  {reason}", "", f"{count:,}", _share(count, total["read"]), "", "")
    for name, counts in total["steps"].items():
        dropped = sum(counts["dropped"].values())
        rate = f"{counts['characters'] / times[name] / 1e6:.1f}" if times.get(name) else ""
        changed = f"{counts['changed']:,}" if counts["changed"] else ""
        shown.add_row(
            name,
            f"{counts['documents']:,}",
            f"{dropped:,}",
            _share(dropped, counts["documents"]),
            changed,
            rate,
        )
        for reason, count in sorted(counts["dropped"].items()):
            shown.add_row(f"  {reason}", "", f"{count:,}", _share(count, counts["documents"]), "", "")
    rate = f"{total['characters'] / times['tokenize'] / 1e6:.1f}" if times.get("tokenize") else ""
    shown.add_row("kept", f"{total['documents']:,}", "", _share(total["documents"], total["read"]), "", rate)
    return shown


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _empty(name: str, steps: Sequence[str]) -> Report:
    counts = {
        step: {"documents": 0, "characters": 0, "changed": 0, "dropped": {}}
        for step in STEPS
        if step in steps
    }
    totals = {"documents": 0, "tokens": 0, "characters": 0}
    return {"name": name, "read": 0, "dropped by the source": {}, "steps": counts, **totals}


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        total[reason] = total.get(reason, 0) + count


def _total(parts: Sequence[Report], steps: Sequence[str]) -> Report:
    total = _empty("all sources", steps)
    for part in parts:
        for field in ("read", "documents", "tokens", "characters"):
            total[field] += part[field]
        _add(total["dropped by the source"], part["dropped by the source"])
        for name, counts in part["steps"].items():
            for field in ("documents", "characters", "changed"):
                total["steps"][name][field] += counts[field]
            _add(total["steps"][name]["dropped"], counts["dropped"])
    return total
