"""ALBERT's embeddings and layer as transformers runs them."""

from pretrain.models.families.bert import network


class Embeddings(network.Embeddings):
    """BERT's, which are projected whatever their width."""

    always_projects = True


class AlbertLayer(network.EncoderLayer):
    """BERT's layer, whose feed-forward result is added to the residual as it is."""

    drops_transformed = False
