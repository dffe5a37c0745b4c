"""The output of `python -m launch.tpu status`: the pod, and the job on each of its machines, in 80 columns."""

import time
from collections import Counter
from typing import Any

from launch.job_outcome import judge
from launch.subprocesses import COLUMNS
from launch.tpu.machines import Answers, Worker
from launch.tpu.pod_state import Pod, Seen

MOST_ROWS = 16
"""Most rows of the table. Of a larger pod, it lists only machines whose state differs from the most common state."""


def status_table(pod: Pod, seen: Seen, answers: Answers | None, now: float | None = None) -> str:
    """The table of a pod's resources in the cloud, and of the job's state on each machine.

    Args:
      pod: the pod.
      seen: the resources of the pod in the cloud.
      answers: the answers of its machines; None if they were not asked.
      now: seconds since the epoch; the current time by default.
    """
    tpu = pod.gcloud.tpu
    slices = f"{tpu.slices} x " if tpu.slices > 1 else ""
    lines = [
        f"pod     {pod.name}: {slices}{tpu.accelerator}, {_maker(pod, seen)}",
        f"place   {pod.gcloud.zone}, project {pod.gcloud.project}",
        f"cloud   {seen}" if seen.queued is None else f"cloud   queued resource {seen.queued}",
    ]
    if seen.queued is not None:
        states = Counter(state or "absent" for state in seen.nodes.values())
        lines.append(f"        TPU VMs: {', '.join(f'{count} {state}' for state, count in states.items())}")
    if seen.reason:
        lines.append(f"        {seen.reason}")
    if answers is None:
        return "\n".join(lines)
    runs = {str(fields["run"]) for fields in answers.of.values() if fields and "run" in fields}
    lines.append(f"job     {judge(answers.of).stage.value}{f', run {min(runs)}' if runs else ''}")
    if answers.complaint:
        lines.append(f"        {answers.complaint}")
    return "\n".join([*lines, "", *_rows(pod, answers, time.time() if now is None else now)])


def _maker(pod: Pod, seen: Seen) -> str:
    """How this tool asked for the pod, unless somebody else made it."""
    ours = seen.absent or seen.unanswered or seen.label == pod.name
    return pod.gcloud.tpu.capacity if ours else "not made by this tool"


def _rows(pod: Pod, answers: Answers, now: float) -> list[str]:
    head = f"{'slice':>5} {'worker':>6}  {'job':<12} {'for':>8}  last line"
    rows = {worker: _row(pod, worker, fields, now) for worker, fields in answers.of.items()}
    if len(rows) <= MOST_ROWS:
        return [head, *rows.values()]
    usual = Counter(_state(fields) for fields in answers.of.values()).most_common(1)[0][0]
    odd = [row for worker, row in rows.items() if _state(answers.of[worker]) != usual]
    first = next(iter(rows.values()))
    shown = [first, *(row for row in odd[: MOST_ROWS - 1] if row != first)]
    return [head, *shown, f"... and {len(rows) - len(shown)} more, most of them {usual}"]


def _row(pod: Pod, worker: Worker, fields: dict[str, Any] | None, now: float) -> str:
    lasted = ""
    if fields and "began" in fields:
        lasted = _duration(float(fields.get("ended", now)) - float(fields["began"]))
    slice_number = pod.nodes.index(worker.node)
    row = f"{slice_number:>5} {worker.index:>6}  {_state(fields):<12} {lasted:>8}  {(fields or {}).get('line', '')}"
    return row[:COLUMNS].rstrip()


def _state(fields: dict[str, Any] | None) -> str:
    if fields is None:
        return "no answer"
    return f"exited {fields['exit']}" if fields.get("state") == "exited" else str(fields.get("state", "?"))


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
