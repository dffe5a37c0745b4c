"""Norwegian RoBERTa-base on OSCAR: the recipe of the Hugging Face Flax example, 18 epochs at sequence length 128.

python -m pretrain --config=configs/roberta_base_oscar_no.py --workdir=gs://BUCKET/roberta-no \
    --config.data.path=gs://BUCKET/oscar/no_meta

Unlike there, attention weights have no dropout. For theirs: --config.model.attention_probs_dropout_prob=0.1
Data: a folder with the Norwegian part of any OSCAR release. To read from a hub instead, without a download:
    --config.data.source=hub --config.data.name=HPLT/HPLT2.0_cleaned --config.data.subset=nob_Latn
Hardware: TPU v3-8. `python -m pretrain.plan` models 194M cycles a step, 0.21 s, and 6.0 GiB a device. The Flax
example took 15 h 32 m on OSCAR 2019. It reached a loss of 1.78 and an accuracy of 0.64.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.epochs = 18
    config.global_batch = 1024
    config.seq_len = 128
    config.dtype = "bfloat16"
    config.tokenizer = {"vocab_size": 50265, "min_frequency": 2}
    config.data = {"source": "oscar", "path": "", "streams": 32, "eval_fraction": 0.01}
    config.model = {"family": "roberta", "attention_probs_dropout_prob": 0.0}
    config.optimizer = {"learning_rate": 3e-4, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.98}
    config.schedule = {"name": "linear", "warmup_steps": 1000}
    config.mesh = {"data": 1, "fsdp": -1}
    config.log = {"every": 100}
    config.eval = {"every": 2500, "steps": 4}
    config.checkpoint = {"every": 2500}
    return config
