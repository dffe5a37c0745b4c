"""The ladder's table in markdown and JSON, and its picture."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.recipes.rungs import RUNGS, Rung
from benchmarks.recipes.verdicts import (
    MEASURES,
    Results,
    best_of,
    difference,
    left_at,
    mean,
    own_spread,
    pooled_spread,
    shares,
)
from pretrain.reports.pictures import png

BASELINES = {"a32": "hf-roberta", "a16": "hf-roberta-bf16", "b": "torch-best", "b32": "torch-best-f32"}
MOST_CURVES = 10
HEADS = (
    "rung", "on", "seeds", "loss", "accuracy", "difference", "verdict", "left at", "tokens/s", "wall s",
    "processor s", "and compiling s",
)  # fmt: skip


def rows(
    rungs: Mapping[str, Results], facts: Mapping[str, Any], known: Mapping[str, Rung]
) -> list[dict[str, Any]]:
    """What the table says of each rung, the lowest loss first.

    Args:
      rungs: the results of each rung.
      facts: those of the text.
      known: the rungs by name.
    """
    pooled = pooled_spread(rungs)
    baselines = {key: best_of(rungs, start) for key, start in BASELINES.items()}
    found = []
    for name in sorted(rungs, key=lambda name: mean(rungs[name])):
        results, rung = rungs[name], known.get(name)
        row: dict[str, Any] = {
            "rung": name,
            "why": rung.why if rung else "",
            "on": rung.on if rung else "",
            "seeds": len(results),
            "loss": round(mean(results), 4),
            "spread": round(own_spread(results), 4),
            "accuracy": round(mean(results, "accuracy"), 4),
            "left_at": _finite(left_at(results, facts["frequency_loss"])),
            **{measure: round(mean(results, measure), 1) for measure in MEASURES},
            "with_all_else": round(sum(r["seconds_with_all_else"] for r in results) / len(results), 1),
            "compilation": round(sum(r["compile_seconds"] for r in results) / len(results), 1),
            "load": round(max(r["load"] for r in results), 1),
            "parameters": results[0]["parameters"],
        }
        if rung and rung.on in rungs:
            against = difference(results, rungs[rung.on], pooled)
            row |= {"difference": round(against.loss, 4), "deviation": round(against.deviation, 4)}
            row["verdict"] = against.verdict
        for key, baseline in baselines.items():
            if baseline and results[0]["peer"] is None:
                needed = shares(results, rungs[baseline])
                row |= {f"{key}_{measure}": _finite(share) for measure, share in needed.items()}
        found.append(row)
    return found


def _finite(number: float) -> float | None:
    return round(number, 4) if math.isfinite(number) else None


def table(found: list[dict[str, Any]], rungs: Mapping[str, Results], facts: Mapping[str, Any]) -> str:
    """The table of a text in markdown: rungs, then what ours need for the baselines' losses."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for row in found:
        spread = f" ± {row['spread']:.3f}" if row["seeds"] > 1 else ""
        apart = f"{row['difference']:+.3f}" if "difference" in row else ""
        if row.get("deviation"):
            apart += f" ± {2 * row['deviation']:.3f}"
        left = "never" if row["left_at"] is None else f"{row['left_at'] / 1000:,.0f}k"
        cells = [
            row["rung"], row["on"], row["seeds"], f"{row['loss']:.3f}{spread}", f"{row['accuracy']:.2%}", apart,
            row.get("verdict", ""), left, f"{row['tokens'] / max(row['wall'], 1e-9):,.0f}", f"{row['wall']:.0f}",
            f"{row['processor']:.0f}", f"{row['wall'] + row['compilation']:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    pooled = pooled_spread(rungs)
    machine = next(iter(rungs.values()))[0]["machine"]
    head = (
        f"{facts['name']}: {facts['characters'] / 1e6:.1f}M characters, {facts['predictions']:,} held-out predictions, "
        f"loss of token frequencies {facts['frequency_loss']:.3f}. Spread of a seed, pooled: {pooled:.4f}. {machine}; "
        f"load at most {max(row['load'] for row in found)}."
    )
    parts = [head, "\n".join(lines)]
    for key, start in BASELINES.items():
        if baseline := best_of(rungs, start):
            parts.append(_needed(found, key, baseline, mean(rungs[baseline])))
    return "\n\n".join(parts) + "\n"


def _needed(found: list[dict[str, Any]], key: str, baseline: str, loss: float) -> str:
    """What each of ours needs for a baseline's last loss, those that reach it only."""
    there = [row for row in found if row.get(f"{key}_tokens") is not None]
    lines = [f"For {baseline}'s last loss, {loss:.3f}, as shares of what it has spent:"]
    if not there:
        return f"{lines[0]} no rung reaches it."
    lines += ["", f"| rung | {' | '.join(MEASURES.values())} |", f"|{'---|' * (1 + len(MEASURES))}"]
    for row in sorted(there, key=lambda row: row[f"{key}_tokens"]):
        needed = [row[f"{key}_{measure}"] for measure in MEASURES]
        lines.append(f"| {row['rung']} | {' | '.join(f'{share:.2f}' for share in needed)} |")
    return "\n".join(lines)


def picture(rungs: Mapping[str, Results], facts: Mapping[str, Any]) -> bytes:
    """Held-out loss against tokens and against seconds, as a PNG: the best rungs, the baselines, and base."""
    from matplotlib.figure import Figure

    best = sorted(rungs, key=lambda name: mean(rungs[name]))
    always = [name for start in BASELINES.values() if (name := best_of(rungs, start))]
    always += [name for name in ("base", "small") if name in rungs]
    shown = [name for name in best if name in always or name in best[:MOST_CURVES]]
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), ("tokens", "wall")):
        for number, name in enumerate(shown):
            style = "--" if rungs[name][0]["peer"] else "-"
            for seed, result in enumerate(rungs[name]):
                across = [point[measure] for point in result["curve"]]
                label = f"{name} {mean(rungs[name]):.3f}" if seed == 0 else None
                loss = [point["loss"] for point in result["curve"]]
                axes.plot(across, loss, style, color=f"C{number % 10}", label=label, marker=".", linewidth=1)
        axes.axhline(facts["frequency_loss"], color="grey", linestyle=":", linewidth=1)
        axes.set_xlabel("tokens" if measure == "tokens" else "seconds of training steps")
    figure.axes[0].set_ylabel("held-out loss, 15% masked (nats)")
    figure.axes[0].text(
        0, facts["frequency_loss"], "token frequencies", va="bottom", fontsize=8, color="grey"
    )
    figure.axes[1].legend(fontsize=8)
    figure.suptitle(facts["name"], parse_math=False)
    return png(figure)


def write(
    folder: Path, rungs: Mapping[str, Results], facts: Mapping[str, Any], known: Mapping[str, Rung] = RUNGS
) -> str:
    """Write table.md, table.json and curves.png of a text into its folder; returns the table."""
    found = rows(rungs, facts, known)
    text = table(found, rungs, facts)
    (folder / "table.md").write_text(text)
    (folder / "table.json").write_text(json.dumps({"text": dict(facts), "rungs": found}, indent=1) + "\n")
    (folder / "curves.png").write_bytes(picture(rungs, facts))
    return text
