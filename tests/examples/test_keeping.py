from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tl_transcoders as tlt
from examples.keeping import (
    Place,
    by_effect,
    by_variance,
    curve,
    replacing,
    rows_of,
    score,
    seen,
)
from tl_transcoders.circuits import Feature
from tl_transcoders.circuits.tasks import Task, greater_than
from tl_transcoders.demo import load_model, load_transcoders

PLACE = Place(3, 12)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model()


@pytest.fixture(scope="module")
def task(model: Any) -> Task:
    return greater_than(model.tokenizer, n=7)


@pytest.fixture
def spliced(model: Any) -> Iterator[tlt.Spliced]:
    with torch.no_grad(), tlt.splice(model, load_transcoders("topk"), error="keep") as spliced:
        yield spliced


def test_nothing_is_replaced_by_itself(spliced: tlt.Spliced, task: Task) -> None:
    values = seen(spliced.model, task, [PLACE.hook])
    masks = {PLACE.hook: torch.ones(values[PLACE.hook].shape[1:3], dtype=torch.bool)}
    assert score(spliced.model, task, replacing(masks, values)) == pytest.approx(
        score(spliced.model, task), abs=1e-6
    )


def test_only_masked_units_are_replaced() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    [(name, hook)] = replacing({"here": mask}, {"here": torch.full((1, 2, 2, 3), 5.0)})
    x = torch.zeros(7, 2, 2, 3)
    assert name == "here"
    assert hook(x, None)[:, 0, 0].eq(5).all()
    assert int(hook(x, None).count_nonzero()) == 7 * 3
    assert not x.any()


def test_a_row_twice_as_long_counts_four_times() -> None:
    activations = torch.tensor([[[0.0, 0.0, 1.0]], [[1.0, 3.0, 1.0]]])
    rows = torch.tensor([[4.0, 0.0], [1.0, 0.0], [9.0, 0.0]])
    at = Place(0, 0)
    assert [i for _, i in by_variance({at.hook: activations}, [at], {0: rows})] == [0, 1, 2]
    assert [
        i
        for _, i in by_variance(
            {at.hook: activations}, [at], {0: rows / rows.norm(dim=1, keepdim=True)}
        )
    ] == [1, 0, 2]


def test_the_whole_curve_ends_at_the_whole_model(spliced: tlt.Spliced, task: Task) -> None:
    ranked = by_variance(seen(spliced.model, task, [PLACE.hook]), [PLACE], rows_of(spliced))
    none, every = curve(spliced.model, task, ranked, sizes=[0, 512], stand_in="source")
    assert every == pytest.approx(score(spliced.model, task), abs=1e-6)
    assert none < every - 0.3


def test_effects_are_those_of_attribution_patching(spliced: tlt.Spliced, task: Task) -> None:
    found = tlt.attribute(
        spliced, task.base, task.source, metric=task.metric, kinds=[Feature], by_position=True
    )
    expected = {
        node.index: float(effect)
        for node, effect in zip(found.nodes.nodes, found.nodes.effects.mean(1), strict=True)
        if isinstance(node, Feature) and (node.layer, node.pos) == (PLACE.layer, PLACE.pos)
    }
    first = by_effect(spliced.model, task, PLACE)[:5]
    assert [i for _, i in first] == sorted(expected, key=lambda i: -abs(expected[i]))[:5]
