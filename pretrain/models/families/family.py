"""A family of networks: its modules, and transformers' names of its fields and tensors.

Our fields have their names in `EncoderConfig`. Our modules are named by their paths in params.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from flax import nnx

from pretrain.models.bigrams import Bigrams
from pretrain.models.config import EncoderConfig
from pretrain.models.layers import LayerNorm
from pretrain.models.module_shapes import Params

Maker = Callable[[nnx.Rngs, EncoderConfig], nnx.Module]


class Layer(Protocol):
    """The class of a layer's module.

    An instance is called with x, segments, positions, a dropout key, the number of first tokens to return, whether
    attention is causal, the chosen tokens to return instead, its traits, and what all layers read (`Parts.shared`).
    """

    def __call__(self, rngs: nnx.Rngs, config: EncoderConfig) -> nnx.Module:
        """Describe one layer."""

    @staticmethod
    def traits(config: EncoderConfig) -> Mapping[str, np.ndarray]:
        """Values that differ between layers and are not learned: arrays [L, ...], which each layer gets by name."""


@dataclass(frozen=True)
class Parts:
    """The modules that an encoder is made of."""

    embeddings: Maker
    layer: Layer
    final: Maker | None = None
    """What follows the last layer."""
    neighbours: Callable[[Params, EncoderConfig], Params] | None = None
    """Changes fresh params so that heads look at neighbours (`position_init=neighbours`); None where that cannot be."""
    bigrams: Callable[[Params, EncoderConfig, Bigrams], Params] | None = None
    """Changes params that start at neighbours so that they predict from counts of pairs (`word_init=bigrams`); None
    where that cannot be."""
    shared: Maker | None = None
    """Params that all layers read: tables of relative positions. The module is called with the number of tokens of a
    row and the compute type; it returns arrays, which each layer gets by name. Where `OwnFields.convolves`, its
    `after_first` follows the first layer: of the embeddings, the layer's result, segments and a dropout key."""


@dataclass(frozen=True)
class KernelStart:
    """Standard deviations of the start of a classification head's kernels."""

    dense: float
    """Of the first map."""
    out: float
    """Of the map to logits."""
    cutoff: float | None = None
    """Standard deviations beyond which nothing is drawn; None cuts nothing off."""


def plain_start(config: EncoderConfig) -> KernelStart:
    """Both kernels start as those of the encoder."""
    return KernelStart(config.initializer_range, config.initializer_range)


@dataclass(frozen=True)
class ClassifierHead:
    """The head of transformers' ...ForSequenceClassification: two maps with an activation between them.

    That of ...ForTokenClassification may lack the first map.
    """

    names: Mapping[str, str]
    """Our modules and their names in a state dict: head/dense where there is a first map, head/out, head/norm."""
    activation: str
    """After the first map."""
    drops_input: bool = False
    """Whether what the first map reads is dropped out too."""
    dropout: str = "classifier_dropout"
    """The field of config.json with the rate; '' if nothing is dropped out."""
    rate: float | None = None
    """The rate where that is left out; None is the rate of hidden states."""
    poolings: Mapping[str, str] = field(default_factory=lambda: {"cls": "cls", "mean": "mean"})
    """The values of `classifier_pooling`, and the vector that each of them reads (see `finetune`'s HeadConfig)."""
    extra: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    """Other fields of `finetune`'s HeadConfig: their names in config.json, and their defaults."""
    norm: Callable[[EncoderConfig], LayerNorm] | None = None
    """Makes the layer norm after the activation; None where there is none."""
    start: Callable[[EncoderConfig], KernelStart] = plain_start
    """The start of the kernels."""


TOKEN_HEAD = ClassifierHead(names={"head/out": "classifier"}, activation="gelu")
"""The head of most families' ...ForTokenClassification: dropout and a map to logits, without a first map."""
QUESTION_HEAD = ClassifierHead(names={"head/out": "qa_outputs"}, activation="gelu", dropout="")
"""The head of most families' ...ForQuestionAnswering: a map to logits."""


@dataclass(frozen=True)
class Family:
    """A family of networks: one model_type of transformers."""

    classes: str
    """What the names of its classes begin with: ...ForMaskedLM, ...ForSequenceClassification."""
    base: str
    """Prefix of the names of the encoder's tensors, in every class except the bare ...Model."""
    parts: Parts
    """The modules of the encoder."""
    defaults: Mapping[str, Any]
    """Our fields that its config.json sets, with what it means to leave one out."""
    modules: Mapping[str, str]
    """Our modules of the encoder and where they are below `base`; `{}` stands for the layer."""
    head: Maker | None = None
    """The masked-language-model head: a module with `dense`, `norm`, possibly `bias`, and `decoder` if the output
    matrix is not tied. A family without a head can only be fine-tuned."""
    head_modules: Mapping[str, str] = field(default_factory=dict)
    """Our modules of that head and their full names."""
    decoder: str = ""
    """The full name of the module in transformers' masked-language-model head with the output matrix and the bias."""
    classifier: ClassifierHead | None = None
    """The head that classifies texts. A family without one can be pretrained only."""
    token_classifier: ClassifierHead = TOKEN_HEAD
    """The head that classifies tokens, in a family that has a head that classifies texts."""
    question_head: ClassifierHead | None = QUESTION_HEAD
    """The head that finds answers, in a family that has a head that classifies texts; None if transformers has none."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Our fields that its config.json calls something else."""
    aliases: frozenset[str] = frozenset()
    """Fields of `renamed` that transformers also reads by our name."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Our fields that are the same in all of its models."""
    own_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its config.json from which `resolve` makes `EncoderConfig.own`, with their defaults."""
    nulls: frozenset[str] = frozenset()
    """Fields of its config.json that transformers reads as if they were left out where they are null."""
    resolve: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] = lambda fields, _: fields
    """Makes the fields of `EncoderConfig` from the fields in `defaults` and `own_defaults`, and from the config.json.
    Its UserError begins with the field's name."""
    written: Callable[[EncoderConfig], Mapping[str, Any]] = lambda _: {}
    """What its config.json has besides `defaults`: the inverse of `resolve`."""
    hidden_dropouts: tuple[str, ...] = ()
    """Fields of `EncoderConfig.own` that hold the dropout of hidden states, where hidden_dropout_prob does not."""
    embeds_as_wide: bool = False
    """Whether embeddings of a new network are as wide as it, if config.model.embedding_size sets no width."""
    new: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the config.json of a new network that config.model does not set, where they are not the defaults."""
    variant: Callable[["EncoderConfig", "Family"], "Family"] = lambda config, family: family
    """The family as one of its networks has it, where names of tensors or the head depend on the config."""
    ignored: tuple[str, ...] = ()
    """Parts of the names of tensors that its checkpoints may have and its masked language models do not read."""
    first_layer_lacks: frozenset[str] = frozenset()
    """Our modules that the first layer does not use and its checkpoints do not have."""
    has_position_table: bool = True
    """Whether the network has a position embedding."""
    is_rotary: bool = False
    """Whether query and key are rotated by their positions."""
    positions_skip_padding: bool = False
    """Whether positions are rows of their table from pad_token_id + 1 on and padding tokens have none (RoBERTa)."""
    has_causal_class: bool = False
    """Whether transformers' AutoModelForCausalLM has a class for it. is_decoder=True makes this class causal."""
    runs_as: str = ""
    """Another model_type with the same network. config.model.family may name either of the two."""

    @property
    def has_token_types(self) -> bool:
        """Whether its networks tell a first text from a second."""
        return "type_vocab_size" in self.defaults

    def key(self, name: str) -> str:
        """What config.json calls a field of ours."""
        return self.renamed.get(name, name)

    def full_name(self, module: str) -> str:
        """The name of one of our modules in a state dict, `{}` for the layer."""
        if module in self.head_modules:
            return self.head_modules[module]
        return f"{self.base}.{self.modules[module]}"
