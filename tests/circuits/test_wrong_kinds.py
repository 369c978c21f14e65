"""Things of the wrong kind, where circuits, families, features or plain prompts are wanted: told, not stumbled over."""

from typing import Any

import pytest

from tests.cases import PAD, Host, Kind, tokens
from tl_transcoders.circuits import Embed, Feature, acdc, curve, faithfulness
from tl_transcoders.circuits.attribution import attribute
from tl_transcoders.circuits.graphs import attribution_graph
from tl_transcoders.circuits.patching import sweep
from tl_transcoders.circuits.weights import Features, Match, by_head, feature_card, mean_connections
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import splice
from tl_transcoders.transcoders import TopK

BASE, SOURCE = tokens(1, seed=1), tokens(1, seed=2)


def last(logits: Any) -> Any:
    return logits[:, -1, 3] - logits[:, -1, 4]


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_circuit_or_family_is_told() -> None:
    model = Host("gpt2", "bridge", False).build()
    with splice(model, Kind("topk", TopK(5)).build(model), error="keep") as spliced:
        found: Any = attribute(spliced, BASE, SOURCE, metric=last)
        for ask in (faithfulness, curve, acdc):
            options: Any = {"threshold": 0.1} if ask is acdc else {}
            with pytest.raises(ConfigError, match="got a Attribution; expected a Circuit"):
                ask(spliced, found, BASE, SOURCE, metric=last, **options)
        for senders in (["feature"], "f1.3", [], [None]):
            wrong: Any = senders
            with pytest.raises(ConfigError, match="sweep, senders"):
                sweep(spliced, BASE, SOURCE, senders=wrong, receivers=["logits"], metric=last)


@pytest.mark.usefixtures("unchecked")
def test_what_weights_cannot_say_is_told() -> None:
    model = Host("neox", "bridge", False).build()
    with splice(model, Kind("topk", TopK(5)).build(model), error="keep") as spliced:
        source: Any
        for source in (Features(0), Embed()):
            with pytest.raises(ConfigError, match="by_head"):
                by_head(spliced, source=source, target=Feature(2, 1))
        for feature in (Features(0), Feature(2, 1, 3)):
            wrong: Any = feature
            with pytest.raises(ConfigError, match="feature_card, feature"):
                feature_card(spliced, wrong)
        assert "reads" in str(feature_card(spliced, Feature(0, 3)))  # nothing lies before it
        for wrong in ({"pos": -1}, {"layer": "a"}, {"index": [1.0]}):
            with pytest.raises(ConfigError, match="whole numbers from 0"):
                Match(**wrong)


def test_means_of_frozen_errors_do_not_depend_on_batches() -> None:
    model, data = Host("gpt2", "bridge", False).build(), tokens(3)
    transcoders = Kind("topk", TopK(5)).build(model)
    ends: Any = {"source": Features(0), "target": Features(2)}
    with splice(model, transcoders, error="freeze", base=data) as spliced:
        whole, parts = (mean_connections(spliced, data, **ends, batch_size=n) for n in (8, 2))
        assert whole.value.equal(parts.value) or (whole.value - parts.value).abs().max() < 1e-6
        assert whole.pairs == parts.pairs


def test_padding_does_not_count() -> None:
    model, data = Host("gpt2", "bridge", False).build(), tokens(3)
    data[1:, 5:] = PAD
    ends: Any = {"source": Features(0), "target": Features(2)}
    with splice(model, Kind("topk", TopK(5)).build(model), error="keep") as spliced:
        found = mean_connections(spliced, data, **ends)
        masked = mean_connections(spliced, data, **ends, mask=data != PAD)
        assert found.n_tokens == masked.n_tokens == data.numel() - 2 * (data.shape[1] - 5)
        assert found.value.equal(masked.value)
        with pytest.raises(ConfigError, match="padding"):
            attribution_graph(spliced, data[1:2])
