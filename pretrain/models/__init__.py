"""The networks: encoders exactly as transformers runs them, as pure functions of a dict of arrays."""

from pretrain.models.config import EncoderConfig
from pretrain.models.encoder import Encoder, build_encoder
from pretrain.models.model import Model, ParameterCount, build
from pretrain.models.module_shapes import Params

__all__ = ["Encoder", "EncoderConfig", "Model", "ParameterCount", "Params", "build", "build_encoder"]
