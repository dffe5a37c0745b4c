"""Errors of data sets on the Hugging Face hub: one line for each, with the field to set."""

import os
import re

from base.errors import UserError
from base.hub_errors import Problem, causes, one_line, problem
from data.config import SourceConfig

ALTERNATIVES = (
    "oscar-corpus/community-oscar (text_field='content'), HPLT/HPLT2.0_cleaned, HuggingFaceFW/fineweb-2"
)


def explain(
    error: Exception, config: SourceConfig, where: str, *, subset: str = "", alternatives: str = ALTERNATIVES
) -> UserError:
    """Make the one-line error for an exception of `datasets` or of a library that it uses.

    Args:
      error: the exception.
      config: the source.
      where: the path of `config` in messages.
      subset: the field that sets the data set's configuration; '' for `where`.subset.
      alternatives: data sets to suggest in place of one that `datasets` no longer reads.
    """
    subset = subset or f"{where}.subset"
    text = one_line(error)
    page = f"https://huggingface.co/datasets/{config.name}"
    names = {type(cause).__name__ for cause in causes(error)}
    if (found := problem(error)) is Problem.GATED or "gated dataset" in text:
        return UserError(
            f"{where}.name={config.name!r} is gated: request access on {page}, "
            "then set HF_TOKEN to a token of that account"
        )
    if found is Problem.NO_REVISION or text.startswith("Revision"):
        return UserError(
            f"{where}.revision={config.revision!r} does not exist in {config.name!r}; see {page}/commits/main"
        )
    if found is Problem.MISSING:
        return UserError(
            f"{where}.name={config.name!r} does not exist on the hub, or is private: check the id on {page}; "
            "for a private one set HF_TOKEN"
        )
    if "scripts are no longer supported" in text:
        return UserError(
            f"{where}.name={config.name!r} is made by a loading script, which datasets no longer runs; "
            f"take a data set of data files instead, such as {alternatives}"
        )
    if match := re.search(r"(?:not found\. Available:|available configs:) ?\[(.*?)\]", text):
        asked = (
            f"is not a configuration of {config.name!r}"
            if config.subset
            else f"is empty, but {config.name!r} has several"
        )
        return UserError(f"{subset}={config.subset!r} {asked}; choose one of {match[1]}")
    if match := re.search(r"Available splits: ?\[(.*?)\]", text):
        return UserError(
            f"{where}.split={config.split!r} is not a split of {config.name!r}; choose one of {match[1]}"
        )
    if names & {"EmptyDatasetError", "DataFilesNotFoundError"}:
        return UserError(
            f"{where}.name={config.name!r} holds no data file that datasets can read; see {page}/tree/main"
        )
    if found is Problem.UNREACHABLE:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        return UserError(
            f"{where}.name={config.name!r}: the hub cannot be reached{offline}: {text}; "
            f"run the same command again to go on, or set {where}.source to local files"
        )
    return UserError(f"{where}.name={config.name!r}: {type(error).__name__}: {text}")
