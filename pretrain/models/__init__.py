"""The networks: BERT and RoBERTa encoders exactly as transformers runs them, as pure functions of a dict of arrays."""

from pretrain.models.config import EncoderConfig
from pretrain.models.model import Model, ParameterCount, Params, build

__all__ = ["EncoderConfig", "Model", "ParameterCount", "Params", "build"]
