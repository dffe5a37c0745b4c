"""The report of pretraining runs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from base import formatting
from base.errors import UserError
from data.config import READERS
from pretrain.config import PretrainConfig
from pretrain.objective.token_frequencies import FREQUENCY_LOSS, verdict
from pretrain.report import sections
from pretrain.report.charts import histogram
from pretrain.report.facts import Run, corpus, read_json, read_run
from pretrain.report.html import Markup, colour, element, join, page, paragraph, section, table
from pretrain.report.sections import Chart, part
from pretrain.runtime.workdir import write_text

FILE, EXAMPLES_FILE = "report.html", "examples.json"
CHARTS = (
    Chart("Loss (nats a prediction)", "train/loss", "eval/loss", FREQUENCY_LOSS),
    Chart("Accuracy", "train/accuracy", "eval/accuracy", percent=True),
    Chart("Held-out loss of the average of weights", "", "eval/average_loss"),
    Chart("Learning rate", "train/learning_rate"),
    Chart("Gradient norm", "train/grad_norm"),
    Chart("Tokens a second", "train/tokens_per_second"),
    Chart("MFU", "train/mfu", percent=True),
    Chart("Waiting for data", "train/data_wait", percent=True),
    Chart("Share of tokens predicted", "train/predicted_share", percent=True),
    Chart("Share of padding", "train/padding", percent=True),
)
MOST_COLUMNS = 4
"""More runs than this are the rows of the table of figures."""
AXES = (
    sections.STEPS,
    ("tokens", lambda run, steps: run.tokens(steps)),
    ("hours of training", lambda run, steps: [seconds / 3600 for seconds in run.seconds(steps)]),
)


def write_report(workdir: epath.Path) -> None:
    """Write WORKDIR/report.html.

    Raises:
      UserError: it is no run's, or has logged nothing.
    """
    write_text(workdir / FILE, report([workdir]))


def report(workdirs: Sequence[epath.Path]) -> str:
    """The report of runs as an HTML page.

    Args:
      workdirs: their folders.

    Raises:
      UserError: one of them is no pretraining run's.
    """
    runs = [read_run(place, name) for place, name in zip(workdirs, sections.names_of(workdirs))]
    for run in runs:
        if "task" in run.config:
            raise UserError(f"{run.workdir} holds a run of fine-tuning; python -m finetune.report is for it")
    title = f"{runs[0].name}: {sections.state_of(runs[0])}" if len(runs) == 1 else f"{len(runs)} runs"
    return page(
        title,
        part(_figures, runs),
        section("Curves", part(sections.curves, runs, CHARTS, AXES)),
        part(sections.config_section, runs, PretrainConfig()),
        *(part(_examples, run) for run in runs),
        part(_data, runs),
        part(sections.time_section, runs),
        part(sections.memory_section, runs),
    )


def _figures(runs: Sequence[Run]) -> Markup:
    """The last and best figures of each run, and what they say of token frequencies."""
    head = [
        *(
            "run",
            "state",
            "parameters",
            "tokens",
            "training loss",
            "held-out loss",
            "best",
            "token frequencies",
        ),
        *("accuracy", "perplexity", "tokens a second", "MFU", "goodput"),
    ]
    said = []
    for run in runs:
        evaluated = [line for line in run.lines if "eval/loss" in line]
        if evaluated and (what := verdict(evaluated[-1])):
            said.append(
                paragraph(f"{run.name}: {what}." if len(runs) > 1 else f"{what[0].upper()}{what[1:]}.")
            )
    rows = [_row(run) for run in runs]
    if len(runs) <= MOST_COLUMNS:  # as a phone has room for
        head, rows = [head[0], *(run.name for run in runs)], [list(each) for each in zip(head, *rows)][1:]
    return section("Figures", table(head, rows), *said)


def _row(run: Run) -> list[str]:
    def last(name: str, form: str = ".4f") -> str:
        values = run.series(name)[1]
        return format(values[-1], form) if values else "-"

    def middle(name: str) -> float | None:
        values = run.series(name)[1]
        return statistics.median(values) if values else None

    steps, losses = run.series("eval/loss")
    best = min(losses, default=None)
    parameters = run.start.get("parameters")
    tokens, speed, mfu = run.tokens([run.step]), middle("train/tokens_per_second"), middle("train/mfu")
    return [
        run.name,
        sections.state_of(run),
        formatting.count(parameters) if isinstance(parameters, int) else "-",
        formatting.count(tokens[0]) if tokens else "-",
        last("train/loss"),
        last("eval/loss"),
        "-" if best is None else f"{best:.4f} at {steps[losses.index(best)]:,}",
        last(FREQUENCY_LOSS),
        last("eval/accuracy", ".2%"),
        last("eval/perplexity", ".4g"),
        "-" if speed is None else formatting.count(speed),
        "-" if mfu is None else formatting.percent(mfu),
        formatting.percent(run.spent.goodput) if run.spent else "-",
    ]


def keep_examples(
    workdir: epath.Path,
    texts: Sequence[str],
    answers: Sequence[str],
    filled: Sequence[Sequence[Sequence[Any]]],
) -> None:
    """Write WORKDIR/examples.json: sentences with blanks, and what the model fills in.

    Args:
      workdir: the run's folder.
      texts: the sentences, with MASK for each blank.
      answers: the true word of each.
      filled: for each sentence, for each blank, the `fill_mask.Candidate`s.
    """
    guesses = [[[(each.word, each.probability) for each in blank] for blank in blanks] for blanks in filled]
    values = [
        {"text": text, "answer": answer, "guesses": own} for text, answer, own in zip(texts, answers, guesses)
    ]
    write_text(workdir / EXAMPLES_FILE, json.dumps({"examples": values}, indent=1) + "\n")


def _examples(run: Run) -> Markup:
    """Sentences that the run was not trained on, and what it fills into their blanks."""
    rows = [
        [
            each["text"],
            each["answer"],
            "; ".join(f"{word} {share:.1%}" for blank in each["guesses"] for word, share in blank),
        ]
        for each in read_json(run.workdir / EXAMPLES_FILE).get("examples") or []
    ]
    return section(f"Examples of {run.name}", table(["text", "true word", "predicted"], rows, numbers=False))


def _data(runs: Sequence[Run]) -> Markup:
    """Sources, dropped documents by reason, lengths, and bytes a token."""
    rows, reasons, charts = list[list[str]](), list[list[str]](), list[Markup]()
    for index, run in enumerate(runs):
        found = corpus(run)
        size = "-" if found.bytes_per_token is None else f"{found.bytes_per_token:.2f}"
        for source, more in sources(run.config):
            rows.append([run.name, source, more, size])
        for key, counts in found.counts.items():
            dropped = [f"{reason}: {number:,}" for reason, number in sorted(counts["dropped"].items())]
            read, held_out = f"{counts['documents']:,}", f"{counts['held_out']:,}"
            if all(source == "prepared" for source, _ in sources(run.config)):
                held_out = "in a file"  # a prepared corpus has its held-out documents apart
            phase = f", phase {key}" if len(found.counts) > 1 else ""
            reasons.append([f"{run.name}{phase}", read, held_out, "; ".join(dropped) or "none"])
        title = f"{run.name}: lengths of held-out documents, in tokens"
        charts.append(histogram(title, found.lengths, "tokens", colour(index)))
    return section(
        "Data",
        table(["run", "source", "fields", "bytes a token"], rows, numbers=False),
        table(["run", "documents read", "held out", "dropped"], reasons),
        paragraph("Documents are counted in each pass over the text, up to the newest checkpoint.", note=True)
        if reasons
        else Markup(""),
        element("div", join([chart for chart in charts if chart]), class_="charts")
        if any(charts)
        else Markup(""),
    )


def sources(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sources of a config's data, each with the fields that say what is read of it.

    Args:
      config: a run's config as nested dicts.
    """
    groups = [config.get("data") or {}, *(phase.get("data") or {} for phase in config.get("phases") or [])]
    members = [member for group in groups if group for member in (group.get("mix") or [group])]
    fields = ("path", "name", "subset", "split", "revision", "text_field", "weight")
    found = []
    for member in members:
        named = {name: member.get(name) for name in fields if member.get(name) not in ("", None)}
        for name in [
            name for name in named if member.get("source") not in READERS.get(name, (member.get("source"),))
        ]:
            named.pop(name)
        if len(members) == 1:
            named.pop("weight", None)
        found.append(
            (str(member.get("source")), ", ".join(f"{name}={value}" for name, value in named.items()))
        )
    return list(dict.fromkeys(found))
