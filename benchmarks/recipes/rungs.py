"""The rungs of the ladder and the baselines, as data: what `python -m benchmarks.recipes` can run.

A rung is a few fields of a pretraining config over those of the rung that it stands on; the lowest is `base`. It is
compared with the rung that it stands on. A baseline is a network of transformers that PyTorch trains.

Two values are shares of the run and not steps: `schedule.warmup_steps` below 1 is a share of the steps, and the `steps`
of a phase are a share of the tokens.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASE: Mapping[str, Any] = {
    "seq_len": 128,
    "global_batch": 16,
    "dtype": "bfloat16",
    "model.hidden_size": 256,
    "model.num_hidden_layers": 6,
    "model.num_attention_heads": 4,
    "model.intermediate_size": 1024,
    "model.max_position_embeddings": 514,
    "model.hidden_dropout_prob": 0.1,
    "model.attention_probs_dropout_prob": 0.1,
    "model.scan_unroll": 0,
    "optimizer.learning_rate": 1e-3,
    "optimizer.clip_norm": 1.0,
    "schedule.warmup_steps": 0.05,
}
"""What the baseline with RoBERTa does too: 7M parameters, with a vocabulary of 8,000."""


@dataclass(frozen=True)
class Peer:
    """A baseline: a network of transformers, trained by PyTorch."""

    family: str
    """roberta or modernbert."""
    learning_rate: float
    muon: bool = False
    """torch.optim.Muon for the matrices of the layers; AdamW for the rest."""
    bfloat16: bool = False
    """bfloat16 autocast."""
    isolated: bool = False
    """Tokens attend only to their own document."""
    rate: float = 0.15
    """Share of masked tokens in training."""
    dropout: float = 0.1


@dataclass(frozen=True)
class Rung:
    """A recipe to run."""

    name: str
    why: str
    """What it should bring, in one line."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a pretraining config by path, without `config.`."""
    on: str = "base"
    """The rung that it stands on; '' for base and the baselines."""
    source: str = ""
    """Who proposes it."""
    share: float = 1.0
    """The share of the token budget that it takes."""
    peer: Peer | None = None


SINE, NEAR = "sinusoidal", "neighbours"
SMALL: Mapping[str, Any] = {
    "model.hidden_dropout_prob": 0.0,
    "model.attention_probs_dropout_prob": 0.0,
    "model.initializer_range": 0.05,
    "model.position_init": SINE,
    "masking.rate": 0.4,
    "optimizer.name": "muon",
    "optimizer.orthogonal_steps": "minimax",
}
"""The choices of configs/roberta_small.py, but for the start of positions."""
MODERN: Mapping[str, Any] = {
    "model.family": "modernbert",
    "model.intermediate_size": 672,
    "model.max_position_embeddings": 1024,
    "model.initializer_range": 0.02,
    "model.position_init": "normal",
}
"""ModernBERT with as many parameters: three maps of a feed-forward layer in place of two."""
SHORT_FIRST = [
    {"steps": 0.3, "seq_len": 32, "global_batch": 64},
    {"steps": 0.7, "seq_len": 128, "global_batch": 16},
]
CLM_FIRST = [{"steps": 0.25, "objective": "clm"}, {"steps": 0.75, "objective": "mlm"}]
GROWING = [{"steps": 0.25, "global_batch": 8}, {"steps": 0.75, "global_batch": 16}]
GROWING_FALLING = [
    {"steps": 0.25, "global_batch": 8},
    {"steps": 0.35, "global_batch": 16},
    {"steps": 0.4, "global_batch": 16, "masking_rate": 0.2},
]
HIGH_TO_LOW = [{"steps": 0.25, "masking_rate": rate} for rate in (0.4, 0.3, 0.2, 0.15)]

OURS = [
    Rung("base", "RoBERTa and AdamW, as the baseline has them", on=""),
    Rung("lr3e-4", "the learning rate of base, tuned", {"optimizer.learning_rate": 3e-4}),
    Rung("lr3e-3", "the learning rate of base, tuned", {"optimizer.learning_rate": 3e-3}),
    Rung(
        "dropout0",
        "text that is read once needs no dropout",
        {"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0},
        source="arXiv 2212.14034",
    ),
    Rung("muon", "orthogonal updates of matrices", {"optimizer.name": "muon"}, source="Jordan et al. 2024"),
    Rung("rate20", "more predictions a row", {"masking.rate": 0.2}, source="nanoplm-worklog"),
    Rung("rate30", "more predictions a row", {"masking.rate": 0.3}, source="nanoplm-worklog"),
    Rung("rate40", "more predictions a row", {"masking.rate": 0.4}, source="arXiv 2202.08005"),
    Rung("sine", "neighbours have similar positions from the start", {"model.position_init": SINE}),
    Rung("init05", "larger initial weights", {"model.initializer_range": 0.05}),
    Rung("small", "the choices of configs/roberta_small.py together, with sinusoidal positions", SMALL),
    # On a recipe for a small model.
    Rung("small-near", "heads start at neighbours", {"model.position_init": NEAR}, on="small"),
    Rung(
        "small-near-words",
        "words start at vectors from counts of their neighbours",
        {"model.word_init": "cooccurrence"},
        on="small-near",
        source="Levy et al. 2015",
    ),
    Rung("small-near-batch8", "half the batch, twice the steps", {"global_batch": 8}, on="small-near"),
    Rung("small-near-adamw", "AdamW in place of Muon", {"optimizer.name": "adamw"}, on="small-near"),
    Rung(
        "small-exact-muon",
        "Muon's products in float32",
        {"optimizer.orthogonal_dtype": "float32"},
        on="small",
    ),
    Rung("small-lr5e-4", "its learning rate, tuned", {"optimizer.learning_rate": 5e-4}, on="small"),
    Rung("small-lr2e-3", "its learning rate, tuned", {"optimizer.learning_rate": 2e-3}, on="small"),
    Rung("small-lr4e-3", "its learning rate, tuned", {"optimizer.learning_rate": 4e-3}, on="small"),
    Rung("small-rate15", "fewer masks", {"masking.rate": 0.15}, on="small"),
    Rung("small-rate20", "fewer masks", {"masking.rate": 0.2}, on="small"),
    Rung("small-rate30", "fewer masks", {"masking.rate": 0.3}, on="small"),
    Rung(
        "small-falling",
        "many masks first, then few",
        {"phases": HIGH_TO_LOW},
        on="small",
        source="arXiv 2305.15096",
    ),
    Rung(
        "small-only-mask",
        "100/0/0 in place of 80/10/10",
        {"masking.mask_fraction": 1.0, "masking.random_fraction": 0.0},
        on="small",
        source="nanoplm-worklog",
    ),
    Rung("small-words", "whole words", {"masking.whole_word": True}, on="small"),
    Rung("small-init02", "smaller initial weights", {"model.initializer_range": 0.02}, on="small"),
    Rung(
        "small-normal", "positions as transformers draws them", {"model.position_init": "normal"}, on="small"
    ),
    Rung("small-beta95", "a second moment that forgets sooner", {"optimizer.beta2": 0.95}, on="small"),
    Rung("small-decay1", "weight decay 0.1", {"optimizer.weight_decay": 0.1}, on="small"),
    Rung("small-batch8", "half the batch, twice the steps", {"global_batch": 8}, on="small"),
    Rung("small-batch32", "twice the batch, half the steps", {"global_batch": 32}, on="small"),
    Rung("small-len64", "rows of 64 tokens", {"seq_len": 64, "global_batch": 32}, on="small"),
    Rung("small-short-first", "rows of 32 tokens for 30% of the tokens", {"phases": SHORT_FIRST}, on="small"),
    Rung(
        "small-clm-first",
        "CLM for 25% of the tokens",
        {"phases": CLM_FIRST},
        on="small",
        source="arXiv 2507.00994",
    ),
    Rung("small-isolated", "documents do not see each other", {"data.packing": "documents"}, on="small"),
    Rung("small-streams16", "each row of a batch from a stream of its own", {"data.streams": 16}, on="small"),
    Rung("small-wsd", "a constant rate, then a decay", {"schedule.name": "wsd"}, on="small"),
    Rung("small-cosine", "a cosine decay", {"schedule.name": "cosine"}, on="small"),
    Rung("small-warmup1", "a warm-up of 1%", {"schedule.warmup_steps": 0.01}, on="small"),
    Rung("small-bias", "the head's bias starts at log frequencies", {"frequency_bias": True}, on="small"),
    Rung(
        "small-normuon",
        "orthogonal updates, each neuron of equal size",
        {"optimizer.name": "normuon"},
        on="small",
        source="arXiv 2510.05491",
    ),
    Rung(
        "small-matrix-decay",
        "almost no decay of matrices",
        {"optimizer.matrix_weight_decay": 1e-5},
        on="small",
        source="nanoplm-worklog",
    ),
    Rung("small-moments16", "half the memory of moments", {"optimizer.moment_dtype": "bfloat16"}, on="small"),
    Rung("small-z", "logits stay small", {"objective.z_loss": 1e-4}, on="small", source="PaLM, section 5"),
    Rung(
        "small-linear",
        "a mask rate that falls in a line",
        {"masking.rate_shape": "linear", "masking.final_rate": 0.15},
        on="small",
        source="arXiv 2305.15096",
    ),
    Rung(
        "small-narrow2",
        "two layers compute the masked tokens alone",
        {"model.narrow_layers": 2},
        on="small",
        source="arXiv 2301.04761",
    ),
    # ModernBERT in its place.
    Rung("modern", "pre-norm, rotary positions, gates", MODERN, on="small", source="arXiv 2412.13663"),
    Rung("modern-near", "heads start at neighbours", {"model.position_init": NEAR}, on="modern"),
    Rung("near-8", "half the batch, twice the steps", {"global_batch": 8}, on="modern-near"),
    Rung("near-8-lr2e-3", "its learning rate, tuned", {"optimizer.learning_rate": 2e-3}, on="near-8"),
    Rung("near-8-lr4e-3", "its learning rate, tuned", {"optimizer.learning_rate": 4e-3}, on="near-8"),
    Rung("near-4", "a quarter of the batch, four times the steps", {"global_batch": 4}, on="near-8-lr2e-3"),
    Rung("near-16", "twice the batch, half the steps", {"global_batch": 16}, on="near-8-lr2e-3"),
    Rung("near-grow", "8 rows for a quarter of the tokens, then 16", {"phases": GROWING}, on="near-8-lr2e-3"),
    Rung(
        "near-grow-falling",
        "few masks at last",
        {"phases": GROWING_FALLING},
        on="near-grow",
        source="arXiv 2305.15096",
    ),
    Rung("near-rate20", "fewer masks", {"masking.rate": 0.2}, on="near-8-lr2e-3"),
    Rung("near-rate30", "fewer masks", {"masking.rate": 0.3}, on="near-8-lr2e-3"),
    Rung("near-adamw", "AdamW in place of Muon", {"optimizer.name": "adamw"}, on="near-8-lr2e-3"),
    Rung(
        "near-normuon",
        "orthogonal updates, each neuron of equal size",
        {"optimizer.name": "normuon"},
        on="near-8-lr2e-3",
        source="arXiv 2510.05491",
    ),
    Rung(
        "near-per-head",
        "orthogonal updates of each head by itself",
        {"optimizer.orthogonal_per_head": True},
        on="near-8-lr2e-3",
        source="Kimi K3, arXiv 2607.24653, section 2.5",
    ),
    Rung(
        "near-isolated", "documents do not see each other", {"data.packing": "documents"}, on="near-8-lr2e-3"
    ),
    Rung(
        "near-exact-muon",
        "Muon's products in float32",
        {"optimizer.orthogonal_dtype": "float32"},
        on="near-8-lr2e-3",
    ),
    Rung(
        "near-schulz",
        "Muon's five steps of Newton and Schulz in place of four",
        {"optimizer.orthogonal_steps": "newton_schulz"},
        on="near-8-lr2e-3",
        source="Jordan et al. 2024",
    ),
    Rung(
        "near-narrow2",
        "two layers compute the masked tokens alone",
        {"model.narrow_layers": 2},
        on="near-8-lr2e-3",
        source="arXiv 2301.04761",
    ),
    Rung(
        "near-narrow1",
        "the last layer computes the masked tokens alone: the same result in less time",
        {"model.narrow_layers": 1},
        on="near-8-lr2e-3",
    ),
    Rung(
        "near-clm-first",
        "CLM for 25% of the tokens",
        {"phases": CLM_FIRST},
        on="near-8-lr2e-3",
        source="arXiv 2507.00994",
    ),
    Rung(
        "near-words",
        "words start at vectors from counts of their neighbours",
        {"model.word_init": "cooccurrence"},
        on="near-8-lr2e-3",
        source="Levy et al. 2015",
    ),
    Rung(
        "near-words-per-head",
        "the same, and heads apart",
        {"optimizer.orthogonal_per_head": True},
        on="near-words",
        source="Kimi K3, arXiv 2607.24653, section 2.5",
    ),
    Rung(
        "near-bigrams",
        "the first layer predicts from counts of pairs",
        {"model.word_init": "bigrams"},
        on="near-words",
    ),
    Rung(
        "near-bigrams-fast",
        "heads apart, and the last layer computes the masked tokens alone",
        {"optimizer.orthogonal_per_head": True, "model.narrow_layers": 1},
        on="near-bigrams",
    ),
    Rung("near-init05", "larger initial weights", {"model.initializer_range": 0.05}, on="near-8-lr2e-3"),
    Rung("modern-lr2e-3", "its learning rate, tuned", {"optimizer.learning_rate": 2e-3}, on="modern"),
    Rung("modern-lr4e-3", "its learning rate, tuned", {"optimizer.learning_rate": 4e-3}, on="modern"),
    Rung("modern-lr8e-3", "its learning rate, tuned", {"optimizer.learning_rate": 8e-3}, on="modern"),
    Rung("modern-rate15", "fewer masks", {"masking.rate": 0.15}, on="modern"),
    Rung("modern-rate20", "fewer masks", {"masking.rate": 0.2}, on="modern"),
    Rung("modern-rate30", "fewer masks", {"masking.rate": 0.3}, on="modern"),
    Rung("modern-init05", "larger initial weights", {"model.initializer_range": 0.05}, on="modern"),
    Rung(
        "modern-window16",
        "local layers see 8 tokens to each side",
        {"model.local_attention": 16},
        on="modern",
    ),
    Rung(
        "modern-window32",
        "local layers see 16 tokens to each side",
        {"model.local_attention": 32},
        on="modern",
    ),
    Rung("modern-batch8", "half the batch, twice the steps", {"global_batch": 8}, on="modern"),
    Rung(
        "modern-short-first", "rows of 32 tokens for 30% of the tokens", {"phases": SHORT_FIRST}, on="modern"
    ),
    Rung("modern-clm-first", "CLM for 25% of the tokens", {"phases": CLM_FIRST}, on="modern"),
    Rung("modern-isolated", "documents do not see each other", {"data.packing": "documents"}, on="modern"),
    Rung("modern-bias", "the head's bias starts at log frequencies", {"frequency_bias": True}, on="modern"),
    Rung("modern-adamw", "AdamW in place of Muon", {"optimizer.name": "adamw"}, on="modern"),
]


def _peers() -> list[Rung]:
    """Each baseline at three learning rates."""
    kinds = {
        "hf-roberta": ("(a) transformers' RoBERTa, AdamW, float32", Peer("roberta", 0), (3e-4, 1e-3, 3e-3)),
        "hf-roberta-bf16": (
            "(a) the same with bfloat16 autocast",
            Peer("roberta", 0, bfloat16=True),
            (3e-4, 1e-3, 3e-3),
        ),
        "torch-best": (
            "(b) transformers' ModernBERT, torch.optim.Muon, bfloat16, documents isolated, 30% masked",
            Peer("modernbert", 0, muon=True, bfloat16=True, isolated=True, rate=0.3, dropout=0.0),
            (1e-3, 2e-3, 4e-3),
        ),
        "torch-best-f32": (
            "(b) the same in float32, for processors without bfloat16",
            Peer("modernbert", 0, muon=True, isolated=True, rate=0.3, dropout=0.0),
            (1e-3, 2e-3, 4e-3),
        ),
    }
    return [
        Rung(f"{name}-{rate:g}", why, on="", peer=dataclasses.replace(peer, learning_rate=rate))
        for name, (why, peer, rates) in kinds.items()
        for rate in rates
    ]


RUNGS: Mapping[str, Rung] = {rung.name: rung for rung in [*OURS, *_peers()]}


def fields_of(rung: Rung, rungs: Mapping[str, Rung] = RUNGS) -> dict[str, Any]:
    """All fields that a rung sets: those of base, of the rungs that it stands on, and its own."""
    below = fields_of(rungs[rung.on], rungs) if rung.on else dict(BASE)
    return below | dict(rung.fields)
