"""DistilBERT (Sanh et al. 2019): BERT's encoder without token types, under names of its own."""

from dataclasses import replace

from pretrain.models.families.bert.head import MaskedLMHead
from pretrain.models.families.bert.network import Embeddings
from pretrain.models.families.distilbert.network import DistilBertLayer
from pretrain.models.families.family import QUESTION_HEAD, ClassifierHead, Family, Parts
from pretrain.models.families.shared_fields import BERT_IDS, SHARED_DEFAULTS, without

FAMILY = Family(
    classes="DistilBert",
    base="distilbert",
    parts=Parts(Embeddings, DistilBertLayer),
    head=MaskedLMHead,
    head_modules={
        "head": "vocab_projector",
        "head/dense": "vocab_transform",
        "head/norm": "vocab_layer_norm",
        "head/decoder": "vocab_projector",
    },
    decoder="vocab_projector",
    classifier=ClassifierHead(
        names={"head/dense": "pre_classifier", "head/out": "classifier"},
        activation="relu",
        dropout="seq_classif_dropout",
        rate=0.2,
    ),
    question_head=replace(QUESTION_HEAD, dropout="qa_dropout", rate=0.1),
    defaults=without(
        {**SHARED_DEFAULTS, **BERT_IDS, "num_hidden_layers": 6}, "type_vocab_size", "layer_norm_eps"
    ),
    modules={
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
    },
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
)
