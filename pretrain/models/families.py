"""What transformers calls things in each family: fields of config.json and modules of a state dict.

A model_type is a row of `FAMILIES`. Names of our fields are those of `EncoderConfig`; of our modules, paths in params.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pretrain.models import modernbert_fields
from pretrain.models.config import EncoderConfig


@dataclass(frozen=True)
class Family:
    """One model_type, as transformers writes it down."""

    classes: str
    """What the names of its classes begin with: ...ForMaskedLM, ...ForSequenceClassification."""
    base: str
    """What the names of the encoder's tensors begin with, in every class but the bare ...Model."""
    defaults: Mapping[str, Any]
    """Our fields that its config.json sets, with what it means to leave one out."""
    modules: Mapping[str, str]
    """Our modules of the encoder and where they are below `base`; `{}` stands for the layer."""
    head: Mapping[str, str] = field(default_factory=dict)
    """Our modules of the masked-language-model head and their full names."""
    decoder: str = ""
    """The full name of the output matrix of transformers' masked-language-model head and, tied or not, bias."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Our fields that its config.json calls something else."""
    aliases: frozenset[str] = frozenset()
    """Those of them that transformers reads by our name too."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Our fields that are the same in all of its models."""
    first_layer_lacks: frozenset[str] = frozenset()
    """Our modules that every layer has but the first, where they do nothing."""
    resolve: Callable[[Mapping[str, Any], Mapping[str, Any], str], Mapping[str, Any]] = lambda fields, *_: (
        fields
    )
    """Makes fields of `EncoderConfig` of those in `defaults`, the config.json and its name for messages."""

    def key(self, name: str) -> str:
        """What config.json calls a field of ours."""
        return self.renamed.get(name, name)

    def full_name(self, module: str) -> str:
        """The name of one of our modules in a state dict, `{}` for the layer."""
        return self.head[module] if module in self.head else f"{self.base}.{self.modules[module]}"


# What transformers assumes where a config.json leaves a field out; `None` ids are only ever passed on.
SHARED_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "tie_word_embeddings": True,
}
_SENTENCEPIECE_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_BERT_IDS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}

_BERT_MODULES = {
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/token_type": "embeddings.token_type_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "layers/attention/query": "encoder.layer.{}.attention.self.query",
    "layers/attention/key": "encoder.layer.{}.attention.self.key",
    "layers/attention/value": "encoder.layer.{}.attention.self.value",
    "layers/attention/output": "encoder.layer.{}.attention.output.dense",
    "layers/attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers/up": "encoder.layer.{}.intermediate.dense",
    "layers/down": "encoder.layer.{}.output.dense",
    "layers/feed_forward_norm": "encoder.layer.{}.output.LayerNorm",
}
_DISTILBERT_MODULES = {
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "layers/attention/query": "transformer.layer.{}.attention.q_lin",
    "layers/attention/key": "transformer.layer.{}.attention.k_lin",
    "layers/attention/value": "transformer.layer.{}.attention.v_lin",
    "layers/attention/output": "transformer.layer.{}.attention.out_lin",
    "layers/attention_norm": "transformer.layer.{}.sa_layer_norm",
    "layers/up": "transformer.layer.{}.ffn.lin1",
    "layers/down": "transformer.layer.{}.ffn.lin2",
    "layers/feed_forward_norm": "transformer.layer.{}.output_layer_norm",
}
_MODERNBERT_MODULES = {
    "embeddings/word": "embeddings.tok_embeddings",
    "embeddings/norm": "embeddings.norm",
    "layers/attention_norm": "layers.{}.attn_norm",
    "layers/attention/query_key_value": "layers.{}.attn.Wqkv",
    "layers/attention/output": "layers.{}.attn.Wo",
    "layers/feed_forward_norm": "layers.{}.mlp_norm",
    "layers/feed_forward/up": "layers.{}.mlp.Wi",
    "layers/feed_forward/down": "layers.{}.mlp.Wo",
    "final/norm": "final_norm",
}
_BERT_HEAD = {
    "head": "cls.predictions",
    "head/dense": "cls.predictions.transform.dense",
    "head/norm": "cls.predictions.transform.LayerNorm",
    "head/decoder": "cls.predictions.decoder",
}
_ROBERTA_HEAD = {
    "head": "lm_head",
    "head/dense": "lm_head.dense",
    "head/norm": "lm_head.layer_norm",
    "head/decoder": "lm_head.decoder",
}


def _without(defaults: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in defaults.items() if name not in names}


def _roberta(classes: str, **defaults: Any) -> Family:
    """A family that runs RoBERTa's network: its base is called roberta in all of them."""
    return Family(
        classes=classes,
        base="roberta",
        defaults={**SHARED_DEFAULTS, **_SENTENCEPIECE_IDS, **defaults},
        modules=_BERT_MODULES,
        head=_ROBERTA_HEAD,
        decoder="lm_head.decoder",
    )


FAMILIES: Mapping[str, Family] = {
    "roberta": _roberta("Roberta", vocab_size=50265),
    "xlm-roberta": _roberta("XLMRoberta"),
    "camembert": _roberta("Camembert"),
    "bert": Family(
        classes="Bert",
        base="bert",
        defaults={**SHARED_DEFAULTS, **_BERT_IDS},
        modules=_BERT_MODULES,
        head=_BERT_HEAD,
        decoder="cls.predictions.decoder",
    ),
    "distilbert": Family(
        classes="DistilBert",
        base="distilbert",
        defaults=_without(
            {**SHARED_DEFAULTS, **_BERT_IDS, "num_hidden_layers": 6}, "type_vocab_size", "layer_norm_eps"
        ),
        modules=_DISTILBERT_MODULES,
        decoder="vocab_projector",
        renamed={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        aliases=frozenset({"hidden_size", "num_hidden_layers", "num_attention_heads"}),
        constants={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
    ),
    "electra": Family(
        classes="Electra",
        base="electra",
        defaults={
            **SHARED_DEFAULTS,
            **_BERT_IDS,
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        modules={**_BERT_MODULES, "embeddings/projection": "embeddings_project"},
        decoder="generator_lm_head",
    ),
    "modernbert": Family(
        classes="ModernBert",
        base="model",
        defaults={
            **_without(SHARED_DEFAULTS, "type_vocab_size", "hidden_dropout_prob"),
            **modernbert_fields.DEFAULTS,
            "vocab_size": 50368,
            "num_hidden_layers": 22,
            "intermediate_size": 1152,
            "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": 50283,
            "bos_token_id": 50281,
            "eos_token_id": 50282,
        },
        modules=_MODERNBERT_MODULES,
        decoder="decoder",
        renamed={
            "hidden_act": "hidden_activation",
            "layer_norm_eps": "norm_eps",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        constants={"type_vocab_size": 0, "hidden_dropout_prob": 0.0},
        first_layer_lacks=frozenset({"layers/attention_norm"}),
        resolve=modernbert_fields.with_own_fields,
    ),
}


def family_of(config: EncoderConfig) -> Family:
    """How transformers writes a network down."""
    return FAMILIES[config.model_type]
