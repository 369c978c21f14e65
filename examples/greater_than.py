"""The greater-than circuit: which head carries the year, which features compare, and how much of it that explains.

`python -m examples.greater_than` goes through the study of Dunefsky et al. 2024, Transcoders Find Interpretable LLM
Feature Circuits, on the demo model, in about a minute: `The war lasted from the year 1742 to the year
17` wants a number above 42. `--model smollm2` asks the same, digit by digit, of SmolLM2-135M.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import product
from typing import Annotated, Any, Final, Literal

import torch
import typer
from jaxtyping import Float
from torch import Tensor

import tl_transcoders as tlt
from examples.greater_than_digits import study as study_digits
from examples.keeping import (
    Place,
    by_effect,
    by_variance,
    curve,
    rows_of,
    seen,
)
from examples.text_tables import sparkline, table
from examples.year_pairs import END, MOVER, READER, WRITERS, YY, circuit_of, year_pairs
from tl_transcoders.circuits import (
    Feature,
    Head,
    Node,
    Resample,
    Run,
    capture,
    faithfulness,
    write_node,
)
from tl_transcoders.circuits.attribution import AttributionPatching, IntegratedGradients
from tl_transcoders.circuits.patching import ActiveFeatures, AllHeads, sweep
from tl_transcoders.circuits.tasks import Task, require
from tl_transcoders.demo import load_model, load_transcoders
from tl_transcoders.demo.vocabulary import two_digit_ids

KEPT: Final = (0, 1, 3, 5, 10, 15, 20, 30, 40, 50, 75, 100, 200)
IN_CIRCUIT: Final = (10, 20, 30, 40)
METHODS: Final = {
    "attribution patching": AttributionPatching(),
    "integrated gradients, 10 steps, inputs": IntegratedGradients(10),
    "integrated gradients, 10 steps, activations": IntegratedGradients(10, over="activations"),
}


class Model(StrEnum):
    """Which model is studied."""

    DEMO = "demo"
    SMOLLM2 = "smollm2"


def main(model: Annotated[Model, typer.Option(help="the model to study")] = Model.DEMO) -> None:
    """Run the study."""
    with torch.no_grad():
        if model is Model.SMOLLM2:
            study_digits()
        else:
            study()


def study() -> None:
    """The whole study on the demo model."""
    model, task = load_model(), year_pairs()
    print(require(model, task), end="\n\n")
    with tlt.splice(model, load_transcoders("topk"), error="keep") as spliced:
        base, source = capture(spliced, task.base), capture(spliced, task.source)
        for part in (heads, paths, attributions, circuits):
            print(part(base, source, task), end="\n\n")
    with tlt.splice(model, load_transcoders("topk")) as spliced:
        print(features(spliced, task), end="\n\n")
    print(curves(model, task))


def heads(base: Run, source: Run, task: Task) -> str:
    """The heads that matter most to the logits, and those to what the first of them reads."""
    rows = []
    reads = {"logits": ["logits"], "keys and values of a1.h2": ["a1.h2<k>", "a1.h2<v>"]}
    for name, receivers in reads.items():
        found = sweep(
            base.spliced,
            base,
            source,
            senders=[AllHeads()],
            receivers=receivers,
            metric=task.metric,
            freeze="wang",
        )
        for node, effect in found.top(4):
            assert isinstance(node, Head)
            attention = float(base.values["pattern", node.layer][:, node.head, END, YY].mean())
            rows.append((write_node(node), name, effect, attention))
    return table(["head", "into", "effect", "attention from the end to YY"], rows)


Nodes = Sequence[Node | str]


def paths(base: Run, source: Run, task: Task) -> str:
    """What each step of the way from YY to the answer carries: the effect of 01 along it alone."""
    rows = []
    for name, (senders, receivers) in steps(base, source).items():
        result = tlt.path_patch(
            base.spliced, base, source, senders=senders, receivers=receivers, metric=task.metric
        )
        rows.append((name, float(result.effect.mean())))
    return table(["path", "effect"], rows)


def steps(base: Run, source: Run) -> dict[str, tuple[Nodes, Nodes]]:
    """Senders and receivers of each of them."""
    year, first, second, third = (active(base, source, place) for place in (READER, *WRITERS))
    beyond: list[Node | str] = [*first, *second, *third, "logits"]
    errors = [tlt.Error(place.layer, pos=END) for place in WRITERS]
    return {
        "YY's embedding → features of MLP 0 there": (["embed"], year),
        "heads of layer 0 at YY → features of MLP 0 there": (
            [Head(0, head, pos=YY) for head in range(4)],
            year,
        ),
        "features of MLP 0 at YY → values of a1.h2": (year, ["a1.h2<v>"]),
        "features of MLP 0 at YY → keys of a1.h2": (year, ["a1.h2<k>"]),
        "a1.h2 → logits": ([MOVER], ["logits"]),
        "a1.h2 → features of MLP 1 → …": ([MOVER], first),
        "a1.h2 → features of MLP 2 → …": ([MOVER], second),
        "a1.h2 → features of MLP 3 → logits": ([MOVER], third),
        "a1.h2 → all of these": ([MOVER], beyond),
        "a1.h2 → all of these, and errors": ([MOVER], [*beyond, *errors]),
    }


def active(base: Run, source: Run, place: Place) -> list[Feature]:
    """Every feature of a place that fires in some prompt."""
    fires = [
        run.values["features", place.layer].to_dense()[:, place.pos] != 0 for run in (base, source)
    ]
    indices = torch.cat(fires).any(0).nonzero()[:, 0].tolist()
    return [Feature(place.layer, i, pos=place.pos) for i in indices]


def attributions(base: Run, source: Run, task: Task) -> str:
    """How near first-order methods come to patching: for the features of MLP 3, one by one, and for a1.h2."""
    spliced, metric = base.spliced, task.metric
    exact = sweep(
        spliced, base, source, senders=[ActiveFeatures([3])], receivers=["logits"], metric=metric
    )
    patched = tlt.intervene(spliced, task.base, {MOVER: tlt.Patch(task.source)}).effect(metric)
    rows: list[tuple[object, ...]] = [("patching", "", float(patched.mean()), "")]
    for name, method in METHODS.items():
        found = tlt.attribute(spliced, base, source, metric=metric, method=method, errors="live")
        effects = dict(zip(found.nodes.nodes, found.nodes.effects.mean(1), strict=True))
        estimates = torch.stack([effects[node] for node in exact.nodes])
        pair = torch.stack([estimates, exact.effects.mean(1)])
        correlation = float(torch.corrcoef(pair)[0, 1])
        rows.append((name, correlation, float(effects[MOVER]), float(found.gap.mean())))
    return table(["method", "correlation, features of MLP 3", "a1.h2", "gap"], rows)


def features(spliced: tlt.Spliced, task: Task, n: int = 5) -> str:
    """The features that vary most with the year, how they answer to it, and what they push.

    Those of MLP 0 push through what a1.h2 writes when it reads them.
    """
    decoders, rows = rows_of(spliced), []
    for place in (READER, *WRITERS):
        carried = seen(spliced.model, task, [place.hook])
        for _, i in by_variance(carried, [place], decoders)[:n]:
            fires = carried[place.hook][:, place.pos, i]
            pushed = push(spliced.model, decoders[place.layer][i], through=place is READER)
            lines = sparkline(fires), sparkline(pushed)
            rows.append((f"f{place.layer}.{i}", *lines, preference(fires, pushed)))
    header = ["feature", "activation at YY = 02 … 98", "push on 00 … 99", "above − up to YY"]
    return table(header, rows)


def preference(fires: Float[Tensor, " prompt"], pushed: Float[Tensor, " number"]) -> float:
    """How much more a feature pushes a year above YY than one up to YY, averaged over YY as it fires."""
    above = torch.arange(100) > torch.arange(2, 99)[:, None]
    gap = torch.stack([pushed[good].mean() - pushed[~good].mean() for good in above])
    return float((fires * gap).sum() / fires.sum())


def push(model: Any, row: Float[Tensor, " d"], *, through: bool) -> Float[Tensor, " number"]:
    """What a decoder row adds to the logits of 00 … 99 directly, up to the scale of norms; or `through` a1.h2's OV."""
    if through:
        layer, head = MOVER.layer, MOVER.head
        row = ((row - row.mean()) * model.blocks[layer].ln1.weight) @ model.W_V[layer, head]
        row = row @ model.W_O[layer, head]
    pushed = ((row - row.mean()) * model.ln_final.weight) @ model.W_U[:, two_digit_ids()]
    return pushed - pushed.mean()


def curves(model: Any, task: Task) -> str:
    """The metric with only n neurons, or n features, kept in the MLP that reads the year or the one that answers."""
    columns = {}
    for where, place in (("MLP 0", READER), ("MLP 3", WRITERS[-1])):
        neurons = kept(model, task, place, {place.layer: model.blocks[place.layer].mlp.W_out})
        with tlt.splice(model, load_transcoders("topk")) as spliced:
            features = kept(model, task, place, rows_of(spliced))
        for name, values in neurons.items():
            columns[f"{where}, {name}: neurons"] = values
            columns[f"{where}, {name}: features"] = features[name]
    return table(["kept", *columns], zip(KEPT, *columns.values(), strict=True))


def kept(
    model: Any, task: Task, place: Place, decoders: Mapping[int, Tensor]
) -> dict[str, list[float]]:
    """The metric by number of units kept, for both stand-ins, and for units ranked by effect."""
    by_spread = by_variance(seen(model, task, [place.hook]), [place], decoders)
    return {
        "mean": curve(model, task, by_spread, sizes=KEPT, stand_in="mean"),
        "01": curve(model, task, by_spread, sizes=KEPT, stand_in="source"),
        "01, by effect": curve(
            model, task, by_effect(model, task, place), sizes=KEPT, stand_in="source"
        ),
    }


def circuits(base: Run, source: Run, task: Task) -> str:
    """How faithful and how complete circuits with n features of each of the two MLPs are, embeddings given."""
    stand_ins = {"mean": tlt.Mean(task.base), "01": Resample()}
    ways: dict[str, Literal["node", "keep"]] = {"replaced": "node", "left": "keep"}
    rows = []
    for (way, errors), n, (name, ablation) in product(ways.items(), IN_CIRCUIT, stand_ins.items()):
        circuit = circuit_of(base.spliced, task, n)
        found = faithfulness(
            base.spliced,
            circuit,
            base,
            source,
            metric=task.metric,
            ablation=ablation,
            errors=errors,
            given=["embed"],
        )
        left, empty = float(found.circuit.mean()), float(found.empty.mean())
        shares = (found.faithfulness, found.completeness)
        rows.append((way, len(circuit.nodes), name, left, empty, *shares))
    header = ["errors", "nodes", "the rest at", "m(C)", "m(∅)", "faithfulness", "completeness"]
    return table(header, rows)


if __name__ == "__main__":
    typer.run(main)
