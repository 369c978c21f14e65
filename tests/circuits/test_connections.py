"""What the weights connect, against dense products, on every kind; and what is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import HOSTS, Host, Kind, case_id
from tests.circuits.dense_weights import (
    decoders,
    embeddings,
    encoders,
    ov,
    skip,
    unembeddings,
)
from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.nodes import Embed, Feature, Head, Logits, write_node
from tl_transcoders.circuits.weights import (
    Connections,
    Features,
    Skip,
    by_head,
    connections,
    feature_card,
    ov_norms,
)
from tl_transcoders.errors import ConfigError, SpliceError
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.transcoders import TopK

SKIP = Kind("topk-skip", TopK(5), skip=True)
KINDS = [
    SKIP,
    Kind("clt", TopK(5), cross_layer=True),
    Kind("clt-skip", skip=True, cross_layer=True, write="mlp_out"),
    Kind("normalized", TopK(5), read="ln2_normalized"),
]
HEAD, LATER = Head(1, 1), Head(2, 0)
EVERYTHING = 10_000
SLOW = pytest.mark.slow
FEW = [Host("gpt2", "bridge", False), Host("gemma3", "bridge", False)]
every_host = pytest.mark.parametrize(
    "host", [pytest.param(h, marks=() if h == FEW[1] else SLOW) for h in HOSTS], ids=case_id
)
DEFAULT = [(FEW[0], KINDS[1]), (FEW[1], SKIP)]
CASES = [
    pytest.param(host, kind, marks=() if (host, kind) in DEFAULT else SLOW)
    for host in HOSTS
    for kind in KINDS
]


def spliced_with(kind: Kind = SKIP, host: Host = HOSTS[0]) -> Spliced:
    model = host.build()
    return splice(model, kind.build(model))


@pytest.fixture(scope="module")
def shared() -> Iterator[Spliced]:
    model = HOSTS[0].fresh()
    with splice(model, SKIP.build(model)) as spliced:
        yield spliced


def dense(found: Connections, rows: int, columns: int) -> Tensor:
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    matrix[found.source, found.target] = found.value.double()
    return matrix


def assert_close(found: Connections, expected: Tensor) -> None:
    size = float(expected.abs().max())
    assert size > 0
    torch.testing.assert_close(dense(found, *expected.shape), expected, atol=1e-5 * size, rtol=0)


@pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
def test_connections_are_dense_products(host: Host, kind: Kind) -> None:
    with spliced_with(kind, host) as spliced:
        source, target, k = Features(0), Features(2), EVERYTHING
        E, D = encoders(spliced, 2), decoders(spliced, 0, 2)
        assert_close(connections(spliced, source=source, target=target, k=k), D @ E)
        first = decoders(spliced, 0, 1)
        through = connections(spliced, source=source, target=target, k=k, via=HEAD, memory=9999)
        assert_close(through, first @ ov(spliced, HEAD) @ E)
        if host.architecture == "neox":  # its MLP reads beside attention, not behind it
            return
        two = connections(spliced, source=source, target=target, k=k, via=(HEAD, LATER))
        assert_close(two, first @ ov(spliced, HEAD) @ ov(spliced, LATER) @ E)
        if kind.skip:
            skipped = connections(spliced, source=source, target=target, k=k, via=[HEAD, Skip(1)])
            assert_close(skipped, first @ ov(spliced, HEAD) @ skip(spliced, 1) @ E)


@every_host
def test_tokens_and_logits_are_ends_too(host: Host) -> None:
    with spliced_with(SKIP, host) as spliced:
        E, D, U = encoders(spliced, 2), decoders(spliced, 1, 2), unembeddings(spliced)
        tokens, k = embeddings(spliced), EVERYTHING
        assert_close(connections(spliced, source=Embed(), target=Features(2), k=k), tokens @ E)
        through = connections(spliced, source=Embed(), target=Feature(2, 7), k=k, via=HEAD)
        assert_close(through, (tokens @ ov(spliced, HEAD) @ E)[:, 7:8])
        assert_close(connections(spliced, source=Feature(1, 3), target=Logits(), k=k), (D @ U)[3:4])
        one = connections(spliced, source=Token(4), target=Token(9), via=[HEAD])
        assert_close(one, (tokens @ ov(spliced, HEAD) @ U)[4:5, 9:10])
        less = connections(spliced, source=Feature(1, 3), target=Difference(9, 4))
        assert_close(less, (D @ (U[:, 9:10] - U[:, 4:5]))[3:4])


def test_a_changed_weight_is_noticed() -> None:
    model = HOSTS[0].build()
    transcoders = SKIP.build(model)
    with splice(model, transcoders) as spliced:
        expected = decoders(spliced, 0, 2) @ encoders(spliced, 2)
        with torch.no_grad():
            transcoders[0].W_dec[7, 3].add_(0.01)
        found = connections(spliced, source=Features(0), target=Features(2), k=EVERYTHING)
        with pytest.raises(AssertionError):
            assert_close(found, expected)


@pytest.mark.parametrize("memory", [150, 1 << 20])
@pytest.mark.parametrize("sign", ["both", "positive", "negative"])
def test_the_strongest_are_kept_in_blocks_of_any_size(
    shared: Spliced, sign: Any, memory: int
) -> None:
    whole = decoders(shared, 0, 2) @ encoders(shared, 2)
    key = {"both": whole.abs(), "positive": whole, "negative": -whole}[sign]
    options = {"k": 6, "sign": sign, "memory": memory}
    best = connections(shared, source=Features(0), target=Features(2), **options)
    order = key.flatten().argsort(descending=True)[:6]
    assert (best.source * 37 + best.target).tolist() == order.tolist()
    torch.testing.assert_close(best.value.double(), whole.flatten()[order], atol=1e-5, rtol=1e-4)
    for per, axis in (("source", 1), ("target", 0)):
        found = connections(shared, source=Features(0), target=Features(2), per=per, **options)
        ranks = key.argsort(dim=axis, descending=True)
        expected = ranks[:, :6] if per == "source" else ranks[:6].T
        others = found.target if per == "source" else found.source
        assert others.view(37, 6).equal(expected)
    assert [(s.index, t.index) for s, t, _ in best] == list(
        zip(best.source.tolist(), best.target.tolist(), strict=True)
    )
    assert len(best.to_pandas()) == 6


@every_host
def test_norms_of_heads_are_norms_of_products(host: Host) -> None:
    with spliced_with(SKIP, host) as spliced:
        E, D = encoders(spliced, 2), decoders(spliced, 0, 1)
        whole = ov_norms(spliced, source=Features(0), target=Features(2)).value
        reading = ov_norms(spliced, target=Feature(2, 7)).value
        signed = by_head(spliced, source=Feature(0, 3), target=Feature(2, 7))
        expected = ov(spliced, HEAD)
        close = {"rel": 1e-4}
        assert float(whole[1, 1]) == pytest.approx(float((D @ expected @ E).norm()), **close)
        assert float(reading[1, 1]) == pytest.approx(float((expected @ E[:, 7]).norm()), **close)
        assert float(ov_norms(spliced).value[1, 1]) == pytest.approx(
            float(expected.norm()), **close
        )
        one = (D @ expected @ E)[3, 7]
        assert float(signed.value[1, 1]) == pytest.approx(float(one), rel=1e-3, abs=1e-5)
        parallel = host.architecture == "neox"
        assert whole.isnan()[0].all()
        assert bool(reading.isnan()[2].all()) is parallel
        best, value = signed.top(1)[0]
        assert abs(value) == float(signed.value.nan_to_num().abs().max())
        assert float(signed.value[best.layer, best.head]) == value


WRONG: list[tuple[tuple[Any, Any], dict[str, Any], str]] = [
    ((Features(0), Features(3)), {}, "a layer without a transcoder"),
    ((Features(0), Feature(2, 37)), {}, "0 to 36"),
    ((Feature(0, -1), Features(2)), {}, "0 to 36"),
    ((Features(0), Features(2)), {"via": Head(1, 2)}, r"a1\.h2"),
    ((Features(0), Features(2)), {"via": Head(7, 0)}, r"a7\.h0"),
    ((Features(0), Features(2)), {"via": "straight"}, "straight"),
    ((Features(0), Features(2)), {"via": [3]}, "got 3"),
    ((Features(0), Features(2)), {"k": 0}, "connections, k"),
    ((Features(0), Features(2)), {"memory": True}, "connections, memory"),
    ((Features(0), Features(2)), {"sign": "up"}, "connections, sign"),
    ((Features(0), Features(2)), {"per": "layer"}, "connections, per"),
    ((Features(2), Features(0)), {}, "before it is written"),
    ((Features(1), Features(1)), {}, "before it is written"),
    ((Features(1), Features(2)), {"via": Head(1, 0)}, "before it is written"),
    ((Features(0), Features(1)), {"via": Head(2, 0)}, "before it is written"),
    ((Features(0), Features(2)), {"via": [Head(1, 0), Head(1, 1)]}, "before it is written"),
    ((Embed(), Token(53)), {}, "token 53"),
    ((Token(-1), Logits()), {}, "token -1"),
    ((Logits(), Logits()), {}, "connections, source"),
    ((Embed(), Embed()), {}, "connections, target"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("ends", "options", "told"), WRONG, ids=lambda value: str(value)[:60])
def test_what_cannot_be_is_told(
    shared: Spliced, ends: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        connections(shared, source=ends[0], target=ends[1], **options)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_splice_or_has_no_way_is_told() -> None:
    with spliced_with(Kind("two", TopK(5), layers=(0, 2))) as spliced:
        with pytest.raises(ConfigError, match="a layer without a transcoder"):
            connections(spliced, source=Features(1), target=Features(2))
        with pytest.raises(ConfigError, match="no skip connection"):
            connections(spliced, source=Features(0), target=Features(2), via=Skip(2))
        with pytest.raises(ConfigError, match="attention between"):
            by_head(spliced, source=Feature(2, 0), target=Feature(0, 0))
    with pytest.raises(SpliceError):
        connections(spliced, source=Features(0), target=Features(2))
    with pytest.raises(ConfigError, match="a spliced model"):
        connections(HOSTS[0].build(), source=Features(0), target=Features(2))


def test_a_card_holds_what_connections_say() -> None:
    with spliced_with(SKIP, FEW[1]) as spliced:
        feature = Feature(2, 7)
        card = feature_card(spliced, feature, k=3)
        (head, norm), _ = card.heads.top(2)
        assert norm == float(ov_norms(spliced, target=feature).value[head.layer, head.head])
        for found, expected in (
            (card.tokens, connections(spliced, source=Embed(), target=feature, k=3)),
            (card.features[1], connections(spliced, source=Features(1), target=feature, k=3)),
            (
                card.tokens_by_head[head],
                connections(spliced, source=Embed(), target=feature, k=3, via=head),
            ),
            (card.logits, connections(spliced, source=feature, target=Logits(), k=3)),
        ):
            assert list(found) == list(expected)
    text = str(card)
    assert f"through {write_node(head)}" in text
    assert "f2.7 writes" in text
    assert repr(f"w{int(card.tokens.source[0])}") in text
