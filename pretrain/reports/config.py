"""The fields of `config.log`: metrics, trackers and profiles."""

from dataclasses import dataclass

from base.errors import UserError
from base.schema import field

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


@dataclass(frozen=True)
class LogConfig:
    """Metrics, trackers and profiles."""

    every: int = field(10, "steps between logged metrics")
    trackers: tuple[str, ...] = field(
        ("tensorboard",),
        "where metrics go beside metrics.jsonl: tensorboard, wandb, trackio, mlflow, or none: ()",
    )
    project: str = field(
        "",
        "project of wandb and trackio, experiment of mlflow; '' takes the tracker's environment variable, or unmask",
    )
    profile_start: int = field(0, "first step to profile (with profile_steps)")
    profile_steps: int = field(0, "steps to profile into WORKDIR/profile; 0 does not")


def check_trackers(log: LogConfig) -> None:
    """Refuse trackers that there are not.

    Args:
      log: a run's `config.log`.

    Raises:
      UserError: one of them is unknown, or named twice.
    """
    for index, name in enumerate(log.trackers):
        if name not in TRACKERS:
            raise UserError(
                f"config.log.trackers={log.trackers!r}: {name!r} should be one of {', '.join(TRACKERS)}"
            )
        if name in log.trackers[:index]:
            raise UserError(f"config.log.trackers={log.trackers!r} names {name} twice")
