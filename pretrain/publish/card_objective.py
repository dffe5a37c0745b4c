"""What a model card says of the objective that a model learned last: how the hub lists it, its use and its limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pretrain.publish.card_writer import pipeline_snippet, quoted


@dataclass(frozen=True)
class ObjectiveText:
    """The parts of a card that depend on the objective."""

    pipeline: str
    """The hub's pipeline_tag."""
    tag: str
    task: str
    """What the results are of."""
    kind: str
    """What the model is, after its type."""
    limits: str
    usage: Callable[[str, str], str]
    """Python that uses the model, as Markdown, by its name and its mask token."""


def _fill_mask(name: str, mask_token: str) -> str:
    return pipeline_snippet("fill_mask", "fill-mask", name, quoted(f"Some text with a {mask_token} in it."))


def _next_token(name: str, mask_token: str) -> str:
    return (
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({quoted(name)}, is_decoder=True)\n```"
    )


_UNMEASURED = (
    "It repeats what is frequent in its data, biases included, and nothing but the results below has been"
    " measured."
)
TEXTS: Mapping[str, ObjectiveText] = {
    "mlm": ObjectiveText(
        pipeline="fill-mask",
        tag="masked-lm",
        task="Masked language modelling",
        kind="masked language model",
        limits=(
            "It fills blanks in text, and is a start for fine-tuning: classifying texts, for example. It does not write"
            f" text or answer questions. {_UNMEASURED}"
        ),
        usage=_fill_mask,
    ),
    "clm": ObjectiveText(
        pipeline="feature-extraction",
        tag="causal-lm",
        task="Causal language modelling",
        kind="encoder, trained to predict the next token,",
        limits=(
            "Its head was trained to predict the next token from those before it (`is_decoder=True`): it does not fill"
            " blanks. It is a start for further training, by masked language modelling or on labelled texts."
            f" {_UNMEASURED}"
        ),
        usage=_next_token,
    ),
}
"""By `config.objective.name`."""
