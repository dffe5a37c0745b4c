"""Small models of transformers with random weights, one for each family and what sets its members apart."""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

B, S = 3, 12
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,  # as many as differ: the last one runs for fewer tokens
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,  # large enough for every gradient to count
}
IDS = {"pad_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
CASES = {
    "roberta": {"model_type": "roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm_roberta": {"model_type": "xlm-roberta", "type_vocab_size": 1, "classifier_dropout": 0.2},
    "camembert": {"model_type": "camembert", "hidden_act": "gelu_new"},
    "bert": {"model_type": "bert"},
    "distilbert": {"model_type": "distilbert", "hidden_dim": 48},
    "electra": {"model_type": "electra", "embedding_size": 20},
    "electra_as_wide": {"model_type": "electra", "embedding_size": 32},
    "modernbert": {
        "model_type": "modernbert",
        "num_hidden_layers": 3,
        "global_attn_every_n_layers": 2,
        "local_attention": 4,  # a token sees two to each side, of 12
        "global_rope_theta": 500.0,
        "local_rope_theta": 50.0,
        **IDS,
    },
    "modernbert_biases_mean": {
        "model_type": "modernbert",
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "local_attention": 7,
        "classifier_pooling": "mean",
        "classifier_bias": True,
        "classifier_activation": "silu",
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_activation": "gelu_new",
        **IDS,
    },
    "albert": {"model_type": "albert", "embedding_size": 20},
    "mpnet": {"model_type": "mpnet"},
    "deberta": {
        "model_type": "deberta-v2",
        "relative_attention": True,
        "position_buckets": 4,
        "max_relative_positions": 12,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "pad_token_id": 1,
    },
    "deberta_v2_xlarge": {
        "model_type": "deberta-v2",
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "conv_kernel_size": 3,
        "type_vocab_size": 2,
        "pooler_hidden_act": "tanh",
    },
    "eurobert": {"model_type": "eurobert", "num_key_value_heads": 2, "tie_word_embeddings": True, **IDS},
    "eurobert_mean": {"model_type": "eurobert", "classifier_pooling": "mean", "mlp_bias": True, **IDS},
    "nomic_bert": {"model_type": "nomic_bert"},
}
NETWORKS = tuple(case for case in CASES if case not in ("xlm_roberta", "camembert"))
"""Those whose networks differ: XLM-R and CamemBERT run RoBERTa's."""
FAMILIES = (
    *("roberta", "xlm_roberta", "camembert", "bert", "distilbert", "electra", "modernbert"),
    *("albert", "mpnet", "deberta", "eurobert", "nomic_bert"),
)
"""One case of each."""


def random_model(
    case: str, folder: Path, *, labels: int = 3, task: str = "SequenceClassification", **fields: object
) -> transformers.PreTrainedModel:
    """Transformers' model for a task with random weights (biases and norms too), saved in the folder.

    Args:
      case: one of CASES.
      folder: where to save it.
      labels: how many it has.
      task: what its class is for; "" is the bare model.
      fields: others of its config.
    """
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**(SIZES | CASES[case] | fields), num_labels=labels)
    auto = getattr(transformers, f"AutoModelFor{task}" if task else "AutoModel")
    model = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def as_stored(model: transformers.PreTrainedModel, named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by the names that transformers' files have for the model's parameters, in the form that they have there.

    Args:
      model: of any family; only files of NomicBERT differ from the parameters.
      named: arrays by the names of its parameters.
    """
    if model.config.model_type != "nomic_bert":
        return named
    tensors = {name: torch.tensor(array) for name, array in named.items()}
    return {name: tensor.numpy() for name, tensor in revert_weight_conversion(model, tensors).items()}


def pairs_of_texts(token_types: int, *, padded: bool) -> dict[str, np.ndarray]:
    """A batch of pairs for a model with so many token types; with padding on the right of the rows where `padded`."""
    rng = np.random.default_rng(1)
    lengths = np.array([S, 5, 9]) if padded else np.array([S, S, S])
    inside = np.arange(S) < lengths[:, None]
    second = np.where(inside & (np.arange(S) >= 4), min(token_types - 1, 1), 0)
    return {
        "tokens": np.where(inside, rng.integers(5, SIZES["vocab_size"], (B, S)), 1).astype(np.int32),
        "segments": inside.astype(np.int32),
        "positions": np.tile(np.arange(S, dtype=np.int32), (B, 1)),
        "token_types": second.astype(np.int32),
    }


def inputs(model: transformers.PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A batch as transformers takes it."""
    given = {"input_ids": batch["tokens"], "attention_mask": batch["segments"]}
    if getattr(model.config, "type_vocab_size", 0):
        given["token_type_ids"] = batch["token_types"]
    return {name: torch.tensor(array).long() for name, array in given.items()}
