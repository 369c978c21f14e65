"""Results given where circuits are wanted, and names where families are: told, not stumbled over."""

from typing import Any

import pytest

from tests.cases import Host, Kind, tokens
from tl_transcoders.circuits import acdc, curve, faithfulness
from tl_transcoders.circuits.attribution import attribute
from tl_transcoders.circuits.patching import sweep
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
