"""What a model card says of the objective that a model learned last: how the hub lists it, its use and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass

from pretrain.models.families.family import Family
from pretrain.objective.names import TRAITS
from pretrain.publish.card_writer import pipeline_snippet, quoted
from pretrain.publish.loading import loading


@dataclass(frozen=True)
class ObjectiveText:
    """The parts of a card that depend on the objective."""

    pipeline: str
    """The hub's pipeline_tag."""
    tag: str
    task: str
    """The task of the results, in words."""
    kind: str
    """What the model is, after its type."""


TEXTS: Mapping[str, ObjectiveText] = {
    "mlm": ObjectiveText(
        pipeline="fill-mask",
        tag="masked-lm",
        task="Masked language modelling",
        kind="masked language model",
    ),
    "clm": ObjectiveText(
        pipeline="feature-extraction",
        tag="causal-lm",
        task="Causal language modelling",
        kind="encoder, trained to predict the next token,",
    ),
}
"""By `config.objective.name`."""


def usage(objective: str, family: Family, name: str, mask_token: str) -> str:
    """Python that uses the model, as Markdown.

    Args:
      objective: what the model learned last, by its name in `config.objective`.
      family: of the network.
      name: what the model is loaded by.
      mask_token: the tokenizer's.
    """
    if TRAITS[objective].hides_tokens:
        return pipeline_snippet(
            "fill_mask", "fill-mask", name, quoted(f"Some text with a {mask_token} in it.")
        )
    how = loading(objective, family)
    return f"```python\nfrom transformers import {how.auto_class}\n\nmodel = {how.call(quoted(name))}\n```"


def limits(objective: str, family: Family) -> str:
    """What the model is for, and what it is not for. Arguments as in `usage`."""
    unmeasured = (
        "It repeats what is frequent in its data, biases included, and nothing but the results below has been"
        " measured."
    )
    if TRAITS[objective].hides_tokens:
        return (
            "It fills blanks in text, and is a start for fine-tuning: classifying texts, for example. It does not write"
            f" text or answer questions. {unmeasured}"
        )
    runs = (
        " (`is_decoder=True`)"
        if family.has_causal_class
        else "; transformers has no class that runs this head, and loads the encoder without it"
    )
    return (
        f"Its head was trained to predict the next token from those before it{runs}. It does not fill blanks. It is a"
        f" start for further training, by masked language modelling or on labelled texts. {unmeasured}"
    )
