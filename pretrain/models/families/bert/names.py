"""What transformers calls the modules of BERT and of those that run its encoder."""

from collections.abc import Mapping

MODULES: Mapping[str, str] = {
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
HEAD: Mapping[str, str] = {
    "head": "cls.predictions",
    "head/dense": "cls.predictions.transform.dense",
    "head/norm": "cls.predictions.transform.LayerNorm",
    "head/decoder": "cls.predictions.decoder",
}
