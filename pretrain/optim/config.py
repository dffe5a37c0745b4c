"""The fields of the optimiser and of the average of weights."""

from dataclasses import dataclass, replace

from base.schema import field

OPTIMIZERS = ("adamw", "stable_adamw", "lamb", "adafactor", "muon", "normuon")
WEIGHTS = ("raw", "average")
"""The weights of a checkpoint: as they were trained, and their moving average."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser (optax) and gradient clipping."""

    name: str = field("adamw", "the optimiser", OPTIMIZERS)
    learning_rate: float = field(3e-4, "peak learning rate")
    reference_batch: int = field(
        0, "tokens of the batch that learning_rate is for; other batches scale it. 0: no batch scales it"
    )
    batch_exponent: float = field(
        0.5, "power of the ratio of batches that scales the rate: 0.5 for Adam, less for Muon, 1 is linear"
    )
    weight_decay: float = field(0.01, "decoupled weight decay; biases and layer norms are exempt")
    matrix_weight_decay: float | None = field(
        None, "muon, normuon: weight decay of the matrices that they update; None is weight_decay"
    )
    beta1: float = field(0.9, "decay of the first moment")
    beta2: float = field(0.98, "decay of the second moment")
    eps: float = field(1e-6, "added to the root of the second moment")
    muon_momentum: float = field(0.95, "muon, normuon: decay of the momentum that is orthogonalised")
    normuon_beta2: float = field(0.95, "normuon: decay of the second moment of each neuron's update")
    orthogonal_dtype: str = field(
        "auto",
        "muon, normuon: type of the products that make updates orthogonal; auto: config.dtype",
        ("auto", "float32", "bfloat16"),
        older="float32",
    )
    orthogonal_steps: str = field(
        "minimax",
        "muon, normuon: polynomials that make updates orthogonal: minimax has 4 steps, newton_schulz 5",
        ("minimax", "newton_schulz"),
        older="newton_schulz",
    )
    orthogonal_per_head: bool = field(
        False,
        "muon, normuon: the query, the key and the value of each attention head are matrices of their own",
    )
    moment_dtype: str = field(
        "float32",
        "type of stored first moments (Adam's, Muon's momentum); second moments are float32",
        ("float32", "bfloat16"),
    )
    clip_norm: float = field(0.0, "clip gradients to this global norm; 0 does not clip")

    def settled(self, dtype: str) -> "OptimizerConfig":
        """These settings in a run whose compute type is `dtype`."""
        return replace(self, orthogonal_dtype=dtype) if self.orthogonal_dtype == "auto" else self


@dataclass(frozen=True)
class AverageConfig:
    """A moving average of the weights, which is evaluated and saved beside them."""

    decay: float = field(
        0.0, "share of the average that a step keeps (0.999: about the last 1000 steps); 0 keeps no average"
    )
