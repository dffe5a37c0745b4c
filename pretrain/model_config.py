"""Fields of the network in a pretraining config."""

from dataclasses import dataclass

from base.schema import field

REMAT_POLICIES = ("none", "attention", "full", "offload")
"""See `pretrain.models.recomputation`."""
REMAT_ALIASES = {"false": "none", "true": "full"}
"""The values of `remat` where it is given as a boolean."""


def _activations() -> tuple[str, ...]:
    """The activations by transformers' names."""
    from pretrain.models.layers import ACTIVATIONS  # its package imports this module

    return tuple(ACTIVATIONS)


def _families() -> tuple[str, ...]:
    """The families that can be pretrained."""
    from pretrain.models import families  # its modules import this one

    return families.pretrained()


@dataclass(frozen=True)
class ModelConfig:
    """The network, by the names that transformers gives these fields."""

    family: str = field(
        "roberta",
        "family of the network, by transformers' model_type; electra is ELECTRA's generator",
        _families,
    )
    config_file: str = field(
        "",
        "a transformers config.json (file, folder or hub id) that gives the network, in place of the fields below",
    )
    vocab_size: int = field(0, "tokens that the embedding has rows for; 0 takes the tokenizer's size")
    vocab_multiple: int = field(
        128,
        "rows of the embedding are padded to a multiple of this, for even sharding and speed; exports have no padding",
        older=1,
    )
    hidden_size: int = field(768, "model width D")
    num_hidden_layers: int = field(12, "layers L")
    num_attention_heads: int = field(12, "heads N; divides hidden_size")
    intermediate_size: int = field(3072, "feed-forward width F")
    hidden_act: str = field("gelu", "activation of the feed-forward layer", _activations)
    max_position_embeddings: int | None = field(
        None,
        "rows of the position embedding, of which roberta uses two for its padding offset; modernbert: longest row; "
        "None is 514 (modernbert, eurobert: 8192; nomic_bert: 2048; deberta-v2: 512)",
        older=514,
    )
    type_vocab_size: int = field(
        1, "token types; bert, electra, albert and nomic_bert have 2, DeBERTa-v3 has 0"
    )
    layer_norm_eps: float = field(
        1e-5, "added to the variance; bert, electra and albert have 1e-12, DeBERTa-v3 has 1e-7"
    )
    initializer_range: float = field(0.02, "standard deviation of the initial weights")
    position_init: str = field(
        "normal",
        "start of positions: sinusoidal gives similar vectors to neighbours; neighbours has half of the heads look "
        "at one neighbour each, so that context is learned sooner",
        ("normal", "sinusoidal", "neighbours"),
    )
    word_init: str = field(
        "normal",
        "start of the word embedding: cooccurrence counts each token's neighbours in a sample of the training text, so "
        "that tokens with similar neighbours start alike; with bigrams (modernbert) the first layer also predicts from "
        "counts of pairs",
        ("normal", "cooccurrence", "bigrams"),
    )
    hidden_dropout_prob: float | None = field(
        None,
        "dropout of embeddings and of each block's output (modernbert: of its embeddings and within its feed-forward "
        "layers); None takes the checkpoint's rate, or 0.1 in a new network (modernbert: 0)",
    )
    attention_probs_dropout_prob: float | None = field(
        None, "dropout of attention weights, which cudnn, triton and splash do not have; None as above"
    )
    embedding_size: int | None = field(
        None,
        "electra, albert: width of the embeddings, projected to hidden_size; None is hidden_size (albert: 128)",
    )
    local_attention: int | None = field(
        None, "modernbert: tokens that a local layer sees, half of them to each side; None is 128"
    )
    global_attn_every_n_layers: int | None = field(
        None, "modernbert: every n-th layer, from the first, attends to the whole document; None is 3"
    )
    global_rope_theta: float | None = field(None, "modernbert: rotary base of global layers; None is 160000")
    local_rope_theta: float | None = field(None, "modernbert: rotary base of local layers; None is 10000")
    tie_word_embeddings: bool = field(True, "the head's output matrix is the input embedding")
    attention: str = field(
        "auto",
        "attention kernel: xla, chunked, cudnn or triton (GPU), one_pass or splash (TPU), or auto, which takes the "
        "fastest that can run",
    )
    remat: str = field(
        "none",
        "what the backward pass computes again: none, attention (its scores), full (each layer: a third more "
        "arithmetic, far less memory), offload (full, and layer inputs wait in the host's memory)",
        REMAT_POLICIES,
        aliases=REMAT_ALIASES,
    )
    scan_unroll: int | None = field(
        None,
        "layers unrolled in each iteration of the scan over them; 0: all (slower to compile; not with remat=full); "
        "None: all on a TPU, up to 24 layers without remat=full, else 1",
        older=1,
    )
    narrow_layers: int = field(
        0,
        "last layers that compute the predicted tokens alone in training, with keys and values of all tokens: 1 "
        "changes no result; more train another network than is evaluated and exported (NarrowBERT)",
    )
    dropout_bits: int = field(
        0,
        "random bits that decide each element of a dropout mask: 8 rounds rates to 1/256, 16 to 1/65536; "
        "0: 8 from the hardware's generator, 16 from threefry",
        (0, 8, 16),
        older=16,
    )
