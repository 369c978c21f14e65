"""How often and where features fire, against the cache of the host."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import BOS, HOSTS, Kind, tokens
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.evaluation import FeatureScores, feature_scores, feature_statistics
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.transcoders import TopK

DATA = tokens(7, 11)
LAYER = 1


def spliced_with(**options: Any) -> Spliced:
    model = HOSTS[0].build()
    torch.manual_seed(0)  # of the transcoders' biases
    return splice(model, Kind("topk", TopK(5)).build(model), **options)


def activations(spliced: Spliced, layer: int) -> Tensor:
    with spliced.keeping_error(), torch.no_grad():
        return spliced.model.run_with_cache(DATA)[1][f"blocks.{layer}.mlp.hook_post"]


def test_statistics_are_those_of_the_whole_cache() -> None:
    with spliced_with() as spliced:
        found = feature_statistics(spliced, DATA, batch_size=3)
        posts = {layer: activations(spliced, layer).flatten(0, 1) for layer in spliced.layers}
    assert found.keys() == posts.keys()
    for layer, post in posts.items():
        here = found[layer]
        assert here.count.equal((post != 0).sum(0))
        assert here.n_tokens == DATA.numel()
        torch.testing.assert_close(here.total, post.double().sum(0))
        torch.testing.assert_close(here.largest, post.amax(0))
        torch.testing.assert_close(here.variance, post.double().var(0, correction=0))
        torch.testing.assert_close(here.mean, post.double().sum(0) / here.count.clamp(min=1))
        assert float(here.frequency.sum()) == pytest.approx(5.0)
        expected = (post != 0).double().mean(0).log10() > -1
        assert here.live(-1.0).equal(expected)
        counts, edges = here.histogram(7)
        assert len(edges) == 8
        assert int(counts.sum()) == int((here.count > 0).sum())


@pytest.fixture(scope="module")
def scores() -> FeatureScores:
    with spliced_with() as spliced:
        often = int(feature_statistics(spliced, DATA)[LAYER].count.argmax())
        return feature_scores(spliced, DATA, LAYER, often, batch_size=3)


def test_scores_are_the_active_places(scores: FeatureScores) -> None:
    with spliced_with() as spliced:
        column = activations(spliced, LAYER)[..., scores.index]
    dense = torch.zeros_like(column)
    dense[scores.prompt, scores.pos] = scores.value
    torch.testing.assert_close(dense, column, rtol=0, atol=1e-6)
    assert scores.frequency == pytest.approx(float((column != 0).float().mean()))
    assert len(scores.value) > 5
    for example in scores.top(3, window=2):
        assert example.value == pytest.approx(float(column[example.prompt].max()))
        around = slice(example.first, example.first + len(example.tokens))
        assert list(example.tokens) == DATA[example.prompt, around].tolist()
        torch.testing.assert_close(torch.tensor(example.values), column[example.prompt, around])
    best = [example.value for example in scores.top(99)]
    assert best == sorted(best, reverse=True)
    assert len(best) == len({example.prompt for example in scores.top(99)})


def test_samples_are_of_all_strengths(scores: FeatureScores) -> None:
    drawn = scores.uniform(4, seed=1)
    assert len({(example.prompt, example.pos) for example in drawn}) == 4
    assert drawn == scores.uniform(4, seed=1)
    assert len(scores.uniform(999)) == len(scores.value)
    most = float(scores.value.max())
    bands = scores.bands(3, per_band=99)
    assert sum(map(len, bands)) == len(scores.value)
    for i, band in enumerate(bands):
        low, high = most * (2 - i) / 3, most * (3 - i) / 3
        assert all(low - 1e-5 <= example.value <= high + 1e-5 for example in band)
    counts, edges = scores.histogram(4)
    assert int(counts.sum()) == len(scores.value)
    assert float(edges[-1]) == pytest.approx(most)


def test_positions_left_out_do_not_count() -> None:
    mask = torch.ones_like(DATA, dtype=torch.bool)
    mask[:, -1] = False
    with spliced_with(exclude=[BOS]) as spliced:
        found = feature_statistics(spliced, DATA, mask=mask)[LAYER]
        index = int(found.count.argmax())
        scores = feature_scores(spliced, DATA, LAYER, index, mask=mask)
    assert found.n_tokens == scores.n_tokens == 7 * 9
    assert int(found.count[index]) == len(scores.value)
    assert not (scores.pos == 0).any()


def test_a_feature_that_never_fires_has_no_examples() -> None:
    with spliced_with() as spliced:
        spliced.transcoders[LAYER].b_enc[3] -= 1e6
        try:
            scores = feature_scores(spliced, DATA, LAYER, 3)
        finally:
            spliced.transcoders[LAYER].b_enc[3] += 1e6
    assert scores.top() == scores.uniform() == []
    assert scores.bands(2) == [[], []]
    assert int(scores.histogram()[0].sum()) == 0


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_told() -> None:
    with spliced_with() as spliced:
        for arguments, told in (((9, 0), r"layers \[9\]"), ((1, 37), "0 to 36"), ((1, -1), "0 to")):
            with pytest.raises(ConfigError, match=told):
                feature_scores(spliced, DATA, *arguments)
        with pytest.raises(ConfigError, match="batch_size"):
            feature_statistics(spliced, DATA, batch_size=0)
        with pytest.raises(ShapeError, match="mask"):
            feature_statistics(spliced, DATA, mask=DATA[:1] > 0)
        with pytest.raises(ConfigError, match="token ids"):
            feature_scores(spliced, DATA.float(), 1, 0)
    with pytest.raises(SpliceError):
        feature_statistics(spliced, DATA)
    with pytest.raises(ConfigError, match="splice returns"):
        feature_statistics(HOSTS[0].build(), DATA)
