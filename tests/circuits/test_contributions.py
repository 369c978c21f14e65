"""What fires times what the weights connect: on a prompt against the graph and paths, on data against plain loops."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import BOS, HOSTS, Host, Kind, case_id, tokens
from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.nodes import Embed, Feature, Head, Logits
from tl_transcoders.circuits.reference_graphs import autograd_graph
from tl_transcoders.circuits.weights import (
    Features,
    connections,
    contributions,
    mean_connections,
)
from tl_transcoders.circuits.weights.reading import KIND, KINDS, Reading, RunReader
from tl_transcoders.circuits.weights.roots import root
from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

SKIP = Kind("topk-skip", TopK(5), skip=True)
CLT = Kind("clt", TopK(5), cross_layer=True)
ALL = [SKIP, CLT, Kind("normalized", TopK(5), read="ln2_normalized"), Kind("relu")]
FEW = [Host("gpt2", "bridge", False), Host("gemma3", "bridge", False)]
PROMPT, DATA = tokens(1), tokens(2, 4)
EVERYTHING = 100_000
SLOW = pytest.mark.slow
DEFAULT = [(FEW[0], SKIP), (FEW[1], CLT)]
CASES = [
    pytest.param(host, kind, marks=() if (host, kind) in DEFAULT else pytest.mark.slow)
    for host in HOSTS
    for kind in ALL
]


def spliced_with(kind: Kind = SKIP, host: Host = HOSTS[0], **options: Any) -> Spliced:
    model = host.build()
    return splice(model, kind.build(model), **({"error": "keep"} | options))


def effects(
    spliced: Spliced, source: Any, target: Any, *, via: Any = "residual", prompt: Tensor = PROMPT
) -> dict:
    found = contributions(spliced, prompt, source=source, target=target, via=via, k=EVERYTHING)
    return {(source, target): value for source, target, value in found}


def an_active_feature(spliced: Spliced, layer: int, pos: int) -> Feature:
    features = capture(spliced, PROMPT).values["features", layer]
    return Feature(layer, int(features.indices[features.rows() == pos][0]), pos)


def assert_same(fast: dict, slow: dict) -> None:
    size = max(map(abs, slow.values()))
    for pair in fast.keys() | slow.keys():
        assert abs(fast.get(pair, 0) - slow.get(pair, 0)) <= 1e-5 * size, pair


@pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
def test_every_way_is_the_term_of_a_path(host: Host, kind: Kind) -> None:
    """The factorised effect of a way, and the reading of the stream behind the same steps."""
    with spliced_with(kind, host, exclude=[BOS]) as spliced:
        target = an_active_feature(spliced, 2, 6)
        reader = RunReader(frame := Frame.of(capture(spliced, PROMPT)))
        start = root(frame, target)
        for source in (Features(0), Features(1)):
            direct = effects(spliced, source, target)
            assert_same(direct, _features(reader, start, source.layer, target))
        through = effects(spliced, Features(0), target, via=Head(1, 1))
        slow = {}
        for row, value in zip(*_terms(reader, start, "head", 1), strict=True):
            if int(row[3]) == 1:
                further = reader.follow(start, row, float(value))
                assert isinstance(further, Reading)
                slow |= _features(reader, further, 0, target)
        assert_same(through, slow)


def _terms(reader: RunReader, reading: Reading, kind: str, layer: int) -> tuple[Tensor, Tensor]:
    terms = reader.terms(reading)
    kept = (terms.rows[:, KIND] == KINDS.index(kind)) & (terms.rows[:, 1] == layer)
    return terms.rows[kept], terms.value[kept]


def _features(reader: RunReader, reading: Reading, layer: int, target: Feature) -> dict:
    rows, values = _terms(reader, reading, "feature", layer)
    return {
        (Feature(layer, index, pos), target): value
        for (_, _, pos, index), value in zip(rows.tolist(), values.tolist(), strict=True)
    }


@pytest.mark.parametrize("host", FEW[:1], ids=case_id)
def test_an_edge_of_the_graph_is_the_stream_and_one_head_each(host: Host) -> None:
    """Between features of neighbouring layers there is one layer of attention, and nothing else."""
    with spliced_with(SKIP, host) as spliced:
        target = an_active_feature(spliced, 1, 6)
        (edges,) = autograd_graph(spliced, PROMPT, [target])
        found = effects(spliced, Features(0), target)
        for head in range(2):
            for pair, value in effects(spliced, Features(0), target, via=Head(1, head)).items():
                found[pair] = found.get(pair, 0.0) + value
        slow = {(s, target): v for s, v in edges.items() if isinstance(s, Feature) and s.layer == 0}
        assert_same(found, slow)
        for weight in spliced.transcoders[0].parameters():
            weight.mul_(1.01)
        try:
            with pytest.raises(AssertionError):
                assert_same(effects(spliced, Features(0), target), {k: slow[k] for k in slow})
        finally:
            for weight in spliced.transcoders[0].parameters():
                weight.div_(1.01)


def test_the_factors_multiply() -> None:
    """activation · connection · 1 / σ, straight through the stream."""
    with spliced_with() as spliced:
        target = an_active_feature(spliced, 2, 6)
        run = capture(spliced, PROMPT)
        block = run.model.anatomy.blocks[2]
        sigma = float(block.ln2.scale(run.values["mlp_in", 2])[0, 6, 0])
        weights = {
            s: v
            for s, _, v in connections(spliced, source=Features(0), target=target, k=EVERYTHING)
        }
        found = contributions(spliced, PROMPT, source=Features(0), target=target)
        assert len(found) == 5
        for source, _, value in found:
            assert isinstance(source, Feature)
            fires = float(run.column(0, source.index)[0, 6])
            expected = fires * weights[Feature(0, source.index)] / sigma
            assert value == pytest.approx(expected, rel=1e-4)


def test_tokens_and_differences_are_ends_too() -> None:
    with spliced_with() as spliced:
        good, bad = Token(4, -1), Token(5, -1)
        one, other = (effects(spliced, Features(2), end) for end in (good, bad))
        both = effects(spliced, Features(2), Difference(4, 5, -1))
        assert len(both) == 5
        for source, target in both:
            assert target == Difference(4, 5, 6)
            expected = one[source, Token(4, 6)] - other[source, Token(5, 6)]
            assert both[source, target] == pytest.approx(expected, abs=1e-5)
        moved = effects(spliced, Embed(), Features(2), via=Head(0, 1))
        assert {source for source, _ in moved} == {Embed(pos) for pos in range(7)}
        assert all(s.pos <= t.pos for s, t in moved)
        only = effects(spliced, Embed(3), Features(2), via=Head(0, 1))
        assert_same(only, {pair: v for pair, v in moved.items() if pair[0] == Embed(3)})


GIVEN = [None, "source", "target", "both"]


@pytest.mark.parametrize(
    ("host", "kind", "via"),
    [
        pytest.param(host, kind, via, marks=SLOW)
        for host, kind in [*DEFAULT, (HOSTS[2], SKIP)]
        for via in ((), (Head(1, 1),))
    ],
    ids=case_id,
)
def test_means_are_those_of_plain_loops(host: Host, kind: Kind, via: Any) -> None:
    source, target = Features(0), Features(2)
    with spliced_with(kind, host) as spliced:
        slow, n_source, n_target, both = loops(spliced, source, target, via)
        for given in GIVEN:
            divided = {
                None: torch.tensor(float(DATA.numel())),
                "source": n_source[:, None],
                "target": n_target[None],
                "both": both,
            }[given]
            sums = slow[given in ("target", "both")]
            expected = sums / divided.clamp(min=1)
            found = mean_connections(
                spliced,
                DATA,
                source=source,
                target=target,
                via=via,
                given=given,
                k=EVERYTHING,
                batch_size=2,
            )
            dense = torch.zeros_like(expected)
            dense[found.source, found.target] = found.value
            size = float(expected.abs().max())
            torch.testing.assert_close(dense, expected, atol=1e-5 * size, rtol=0)
            assert found.n_tokens == DATA.numel()
            assert found.both.double().equal(both[found.source, found.target])
            assert found.n_source.double().equal(n_source[found.source])
            assert found.n_target.double().equal(n_target[found.target])


def test_means_of_one_prompt_are_its_contributions() -> None:
    """As the plain loops do for every target, on one."""
    with spliced_with(CLT, FEW[1]) as spliced:
        feature, via = an_active_feature(spliced, 2, 6), Head(1, 1)
        every = Feature(2, feature.index)
        mean = mean_connections(
            spliced, PROMPT, source=Features(0), target=every, via=via, k=EVERYTHING
        )
        given = mean_connections(
            spliced, PROMPT, source=Features(0), target=every, via=via, k=EVERYTHING, given="target"
        )
        sums, active = torch.zeros(2, 37).double()
        run = capture(spliced, PROMPT)
        on = run.column(2, feature.index)[0] != 0
        for pos in range(7):
            target = Feature(2, feature.index, pos)
            found = contributions(
                spliced, run, source=Features(0), target=target, via=via, k=EVERYTHING
            )
            sums.index_add_(0, found.source, found.value.double())
            active.index_add_(0, found.source, found.value.double() * on[pos])
        close = {"atol": 1e-5 * float(sums.abs().max()), "rtol": 0}
        torch.testing.assert_close(mean.value, sums[mean.source] / 7, **close)
        torch.testing.assert_close(given.value, active[given.source] / int(on.sum()), **close)
        assert len(given) == int((active != 0).sum())


def loops(spliced: Spliced, source: Features, target: Features, via: Any) -> Any:
    """Effects on every feature at every position, one prompt at a time: sums over all, and where it is active."""
    every, active = torch.zeros(37, 37).double(), torch.zeros(37, 37).double()
    n_source, n_target, both = every[0].clone(), every[0].clone(), every.clone()
    for prompt in DATA:
        run = capture(spliced, prompt[None])
        on = (run.values["features", target.layer].to_dense()[0] != 0).double()
        for pos in range(len(prompt)):
            there = torch.zeros(37).double()
            for t in range(37):
                reader = Feature(target.layer, t, pos)
                found = contributions(
                    spliced, run, source=source, target=reader, via=via, k=EVERYTHING
                )
                effect = torch.zeros(37).double().index_add(0, found.source, found.value.double())
                every[:, t] += effect
                active[:, t] += effect * on[pos, t]
                there = torch.maximum(there, (effect != 0).double())
            n_source += there
            n_target += on[pos]
            both += there[:, None] * on[pos]
    return {False: every, True: active}, n_source, n_target, both


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_told() -> None:
    with spliced_with() as spliced:
        for ends, options, told in (
            ((Features(0), Logits()), {}, "Name the token"),
            ((Features(0), Feature(2, 3, 7)), {}, "position 7"),
            ((Features(0), Feature(2, 37, 3)), {}, "0 to 36"),
            ((Features(2), Features(0)), {}, "before it is written"),
            ((Features(0), Features(2)), {"k": 0}, "contributions, k"),
            ((Features(0), Features(2)), {"sign": "up"}, "contributions, sign"),
            ((Features(0), Features(2)), {"via": Head(1, 9)}, r"a1\.h9"),
        ):
            with pytest.raises(ConfigError, match=told):
                contributions(spliced, PROMPT, source=ends[0], target=ends[1], **options)
        for ends, options, told in (
            ((Features(0), Logits()), {}, "mean_connections, target"),
            ((Features(0), Features(2)), {"given": "neither"}, "mean_connections, given"),
            ((Features(0), Features(2)), {"batch_size": 0}, "batch_size"),
            ((Features(0), Features(2)), {"memory": 8}, "pairs that fire together"),
            ((Features(1), Features(1)), {}, "before it is written"),
        ):
            with pytest.raises(ConfigError, match=told):
                mean_connections(spliced, DATA, source=ends[0], target=ends[1], **options)
        with pytest.raises(ShapeError, match="mask"):
            mean_connections(
                spliced, DATA, source=Features(0), target=Features(2), mask=DATA[:, :2] > 0
            )
        with pytest.raises(ConfigError, match="token ids"):
            mean_connections(spliced, DATA.float(), source=Features(0), target=Features(2))


def test_only_tokens_that_count_are_counted() -> None:
    with spliced_with(exclude=[BOS]) as spliced:
        mask = torch.ones_like(DATA, dtype=torch.bool)
        mask[:, -2:] = False
        found = mean_connections(spliced, DATA, source=Features(0), target=Features(2), mask=mask)
        fewer = mean_connections(spliced, DATA[:, :-2], source=Features(0), target=Features(2))
    assert found.n_tokens == len(DATA) * (DATA.shape[1] - 3)
    assert found.source.equal(fewer.source)
    torch.testing.assert_close(found.value, fewer.value)
    assert len(found.to_pandas()) == 20
    assert all(s.layer == 0 and t.layer == 2 for s, t, _ in found)


def test_tokens_can_be_sources_of_means() -> None:
    with spliced_with() as spliced:
        target = an_active_feature(spliced, 2, 6)
        found = mean_connections(
            spliced, DATA, source=Embed(), target=target, via=Head(1, 0), given="target"
        )
    assert len(found) > 0
    assert {s.token for s, _, _ in found} <= set(DATA.flatten().tolist())
    assert int(found.both.max()) <= int(found.n_target.max())
