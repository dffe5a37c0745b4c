"""How transformers loads a model that a run exported, by what the model has learned."""

from dataclasses import dataclass

from pretrain.models.families.family import Family
from pretrain.objective.names import TRAITS


@dataclass(frozen=True)
class Loading:
    """A call of transformers that loads a model."""

    auto_class: str
    """The class: AutoModelForMaskedLM."""
    arguments: str = ""
    """What follows the model's name in the call."""

    def call(self, name: str) -> str:
        """The call as Python.

        Args:
          name: the model's name as a Python literal.
        """
        return f"{self.auto_class}.from_pretrained({name}{self.arguments})"


def loading(objective: str, family: Family) -> Loading:
    """The class of transformers that has the trained head. If there is no such class, the class of the encoder alone.

    Args:
      objective: what the model learned last, by its name in `config.objective`.
      family: of the network.
    """
    if not TRAITS[objective].causal:
        return Loading("AutoModelForMaskedLM")
    if family.has_causal_class:
        return Loading("AutoModelForCausalLM", ", is_decoder=True")
    return Loading("AutoModel")


def caution(objective: str, family: Family) -> str:
    """A warning to a user who takes the export for a masked language model; '' if it is one.

    Arguments as in `loading`.
    """
    if TRAITS[objective].hides_tokens:
        return ""
    learned = (
        f"its head was trained to predict the next token (config.objective.name={objective}) and does not fill "
        "blanks: "
    )
    if not family.has_causal_class:
        return f"{learned}transformers has no class that runs it; go on with mlm, or fine-tune it"
    return f"{learned}load it with AutoModelForCausalLM and is_decoder=True, or go on with mlm"
