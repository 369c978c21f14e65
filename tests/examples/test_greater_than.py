"""What the greater-than study says of the demo model is so."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from examples.greater_than import (
    KEPT,
    MOVER,
    READER,
    WRITERS,
    active,
    attributions,
    circuit_of,
    features,
    heads,
    kept,
    preference,
    push,
    steps,
    year_pairs,
)
from examples.keeping import Place, by_variance, rows_of, seen
from tl_transcoders.circuits import Circuit, Feature, Head, Node, Run, capture
from tl_transcoders.circuits.ablation import Ablation, Faithfulness, Resample, faithfulness
from tl_transcoders.circuits.tasks import Task, gate
from tl_transcoders.demo import load_model, load_transcoders

ANSWER = WRITERS[-1]


@pytest.fixture(scope="module", autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model()


@pytest.fixture(scope="module")
def task() -> Task:
    return year_pairs()


@pytest.fixture
def spliced(model: Any) -> Iterator[tlt.Spliced]:
    with tlt.splice(model, load_transcoders("topk"), error="keep") as spliced:
        yield spliced


@pytest.fixture
def runs(spliced: tlt.Spliced, task: Task) -> tuple[Run, Run]:
    return capture(spliced, task.base), capture(spliced, task.source)


def cells(table: str) -> list[list[str]]:
    """The body of a Markdown table."""
    return [row[2:-2].split(" | ") for row in table.splitlines()[2:]]


def test_there_is_a_prompt_for_every_year(model: Any, task: Task) -> None:
    years = [model.to_string(token) for token in task.base[:, task.positions["YY"]]]
    assert years == [f"{year:02d}" for year in range(2, 99)]
    assert {model.to_string(token) for token in task.source[:, task.positions["YY"]]} == {"01"}
    assert gate(model, task).passed


def test_one_head_carries_the_year(runs: tuple[Run, Run], task: Task) -> None:
    into_logits, into_head = cells(heads(*runs, task))[:4], cells(heads(*runs, task))[4:]
    first, second = into_logits[:2]
    assert first[0] == "a1.h2"
    assert float(first[2]) < -0.85
    assert abs(float(second[2])) < 0.05
    assert float(first[3]) > 0.8
    assert into_head[0][0] == "a0.h3"


@pytest.mark.parametrize(
    ("step", "least", "most"),
    [
        ("features of MLP 0 at YY → values of a1.h2", -0.9, -0.6),
        ("features of MLP 0 at YY → keys of a1.h2", -0.6, -0.3),
        ("a1.h2 → logits", -0.3, -0.05),
        ("a1.h2 → features of MLP 3 → logits", -0.7, -0.4),
    ],
)
def test_the_year_passes_mlp_0_the_head_and_mlp_3(
    runs: tuple[Run, Run], task: Task, step: str, least: float, most: float
) -> None:
    senders, receivers = steps(*runs)[step]
    found = tlt.path_patch(
        runs[0].spliced, *runs, senders=senders, receivers=receivers, metric=task.metric
    )
    assert least < float(found.effect.mean()) < most


def preferences(spliced: tlt.Spliced, task: Task, place: Place) -> Tensor:
    """Of the 20 features of a place that vary most."""
    carried, rows = seen(spliced.model, task, [place.hook]), rows_of(spliced)
    found = [
        preference(
            carried[place.hook][:, place.pos, i],
            push(spliced.model, rows[place.layer][i], through=False),
        )
        for _, i in by_variance(carried, [place], rows)[:20]
    ]
    return torch.tensor(found)


def test_the_features_of_mlp_3_compare_and_those_before_do_not(
    spliced: tlt.Spliced, task: Task
) -> None:
    first, second, third = (preferences(spliced, task, place) for place in WRITERS)
    assert third.min() > 0.02
    assert third.mean() > 0.1
    for other in (first, second):
        assert other.mean() < 0.02
        assert other.min() < -0.01


def test_a_preference_is_for_later_years() -> None:
    fires = torch.ones(97)
    assert preference(fires, torch.arange(100.0)) == pytest.approx(50)
    assert preference(fires, -torch.arange(100.0)) == pytest.approx(-50)


def test_the_table_of_features_names_each_place(spliced: tlt.Spliced, task: Task) -> None:
    names = [row[0] for row in cells(features(spliced, task, n=2))]
    assert [name.partition(".")[0] for name in names] == [
        "f0",
        "f0",
        "f1",
        "f1",
        "f2",
        "f2",
        "f3",
        "f3",
    ]


def counted(model: Any, task: Task) -> tuple[dict[str, dict[int, float]], ...]:
    """The metric by number of features, and of neurons, kept in MLP 3."""
    neurons = kept(model, task, ANSWER, {3: model.blocks[3].mlp.W_out})
    with tlt.splice(model, load_transcoders("topk")) as spliced:
        features = kept(model, task, ANSWER, rows_of(spliced))
    return tuple(
        {name: dict(zip(KEPT, values, strict=True)) for name, values in unit.items()}
        for unit in (features, neurons)
    )


def test_few_features_do_what_takes_more_neurons(model: Any, task: Task) -> None:
    features, neurons = counted(model, task)
    by_variance, by_effect, mean = "01", "01, by effect", "mean"
    whole = features[mean][200]
    assert features[by_variance][30] > neurons[by_variance][30] + 0.05
    assert features[by_variance][50] > 0.98 * whole > neurons[by_variance][50] + 0.05
    # Of 20 by variance, neurons are worth more; by effect, features are.
    assert neurons[by_variance][20] > features[by_variance][20] + 0.05
    assert all(features[by_effect][n] > neurons[by_effect][n] + 0.01 for n in KEPT[1:10])
    assert features[by_effect][20] > neurons[by_effect][20] + 0.1
    # Means leave most of the metric in place.
    assert min(features[mean][0], neurons[mean][0]) > 0.75


def left(runs: tuple[Run, Run], task: Task, circuit: Circuit, by: Ablation) -> Faithfulness:
    """What a circuit does when all but it and embeddings is replaced."""
    return faithfulness(
        runs[0].spliced, circuit, *runs, metric=task.metric, ablation=by, given=["embed"]
    )


def test_the_circuit_is_faithful(runs: tuple[Run, Run], task: Task) -> None:
    found = left(runs, task, circuit_of(runs[0].spliced, task, 40), Resample())
    assert found.faithfulness > 0.8
    assert abs(found.completeness) < 0.05


@pytest.mark.parametrize("left_out", ["a1.h2", "heads of layer 0", "features of MLP 0"])
def test_it_is_not_without_one_of_its_parts(
    runs: tuple[Run, Run], task: Task, left_out: str
) -> None:
    parts: dict[str, Callable[[Node], bool]] = {
        "a1.h2": lambda node: node == Head(1, 2, pos=ANSWER.pos),
        "heads of layer 0": lambda node: isinstance(node, Head) and node.layer == 0,
        "features of MLP 0": lambda node: isinstance(node, Feature) and node.layer == 0,
    }
    circuit = circuit_of(runs[0].spliced, task, 40)
    rest = Circuit(node for node in circuit.nodes if not parts[left_out](node))
    assert rest != circuit
    assert left(runs, task, rest, Resample()).faithfulness < 0.3


def test_means_make_a_circuit_look_more_faithful(runs: tuple[Run, Run], task: Task) -> None:
    circuit = circuit_of(runs[0].spliced, task, 20)
    by_mean, by_source = (
        left(runs, task, circuit, way) for way in (tlt.Mean(task.base), Resample())
    )
    assert by_mean.faithfulness > by_source.faithfulness + 0.3
    assert float(by_mean.empty.mean()) > 0.5


def test_active_features_are_those_that_fire(runs: tuple[Run, Run]) -> None:
    found = active(*runs, READER)
    assert {node.pos for node in found} == {READER.pos}
    for node in found[:5]:
        columns = [run.column(0, node.index)[:, READER.pos] for run in runs]
        assert any(column.any() for column in columns)
    assert len(found) < 512
    assert Head(1, 2) == MOVER


def test_attribution_patching_ranks_features_and_misses_what_saturates(
    runs: tuple[Run, Run], task: Task
) -> None:
    (_, _, patched, _), (_, correlation, estimate, _), *_, (_, _, integrated, _) = cells(
        attributions(*runs, task)
    )
    assert float(correlation) > 0.9
    assert float(patched) < -0.85
    assert float(estimate) > -0.3
    assert float(integrated) < -0.75
