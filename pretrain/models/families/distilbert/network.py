"""DistilBERT's layer (Sanh et al. 2019) as transformers runs it."""

from pretrain.models.families.bert.network import EncoderLayer


class DistilBertLayer(EncoderLayer):
    """BERT's layer, whose attention is added to the residual as it is."""

    drops_attended = False
