"""Which layers an exchange of weights must prepare anew."""

from torch import nn

from serve.engines.weight_exchange import tied_layers


def test_layers_that_share_a_weight_are_found() -> None:
    embeddings, output, other = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False), nn.Linear(3, 7, bias=False)
    model = nn.Sequential(embeddings, other, output)
    assert list(tied_layers(model)) == []
    output.weight = embeddings.weight
    assert list(tied_layers(model)) == [embeddings, output]
