"""Why SmolLM2-135M says " Paris": a pruned circuit of transcoder features, and what becomes of the answer without it.

`python -m examples.capital_of_france` splices transcoders for all 30 MLPs (trained on first use, see
`examples.all_layers`), makes the attribution graph of " Paris" against " Berlin" behind "The capital of France is",
and prints the strongest part of it. Then it asks the model, everything live: the features that put " Paris" ahead
most, says the graph, are switched off, as many others drawn at random are, and they and all features at the
country's token are exchanged for those of "The capital of Germany is".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, final

import torch
import typer
from jaxtyping import Int
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tl_transcoders as tlt
from examples.all_layers import trained
from examples.real_models import load_bridge, smollm2
from examples.smollm2_splice import BOS
from tl_transcoders.circuits import Feature, Node
from tl_transcoders.circuits.interventions import Edit

FRANCE: Final = ("France", " Paris", " Berlin")
GERMANY: Final = ("Germany", " Berlin", " Paris")
COUNTRY: Final = 4
console = Console(width=120)


def main(
    n_key: Annotated[int, typer.Option(help="features to switch off or to exchange")] = 30,
    budget: Annotated[int, typer.Option(help="features that get a row in the graph")] = 5000,
) -> None:
    """Run the example."""
    model: Any = load_bridge(smollm2())
    with tlt.splice(model, trained(model), error="keep", exclude=[BOS]) as spliced:
        france, germany = (explain(spliced, *country, budget) for country in (FRANCE, GERMANY))
        show(france)
        key, others = france.key(n_key), france.others(n_key)
        here, there = france.at(COUNTRY), germany.at(COUNTRY)
        edits: dict[str, Mapping[Node, Edit]] = {
            "nothing": {},
            f"the {n_key} key features off": off(key),
            f"{n_key} others off": off(others),
            f"the {n_key} key features exchanged": off(key) | on(germany.key(n_key)),
            "all features of the country exchanged": off(here) | on(there),
        }
        console.print(effects(spliced, france, edits))


@final
@dataclass(frozen=True, slots=True)
class Explained:
    """A prompt, the tokens it is asked about, and why the first is ahead."""

    tokens: Int[Tensor, "1 pos"]
    asked: tuple[str, str]
    graph: tlt.Graph

    def key(self, n: int) -> dict[Node, float]:
        """The features that put the first token ahead most, over all paths together, and their activations."""
        return self._features(self._total.argsort(descending=True), n)

    def others(self, n: int) -> dict[Node, float]:
        """As many active ones, drawn at random from the rest."""
        rest = self._total.argsort(descending=True)
        rest = rest[self.graph.nodes.is_a("feature")[rest]][n:]
        drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))
        return self._features(rest[drawn], n)

    def at(self, pos: int) -> dict[Node, float]:
        """All features at a position."""
        (here,) = (self.graph.nodes.pos == pos).nonzero(as_tuple=True)
        return self._features(here, len(here))

    @property
    def _total(self) -> Tensor:
        return self.graph.total_effects()[:, 0]

    def _features(self, order: Int[Tensor, " node"], n: int) -> dict[Node, float]:
        chosen = order[self.graph.nodes.is_a("feature")[order]][:n]
        values = self.graph.activation[chosen].tolist()
        return {
            node: value
            for node, value in zip(self.graph.nodes.take(chosen), values, strict=True)
            if isinstance(node, Feature)
        }


def explain(spliced: tlt.Spliced, country: str, answer: str, other: str, budget: int) -> Explained:
    """The graph of answer − other, behind the token that separates SmolLM2's documents."""
    model: Any = spliced.model
    words = model.to_tokens(f"The capital of {country} is", prepend_bos=False)
    tokens = torch.cat([torch.tensor([[BOS]]), words], dim=1)
    graph = tlt.attribution_graph(spliced, tokens, targets=[(answer, other)], max_features=budget)
    return Explained(tokens, (answer, other), graph)


def off(features: Mapping[Node, float]) -> dict[Node, Edit]:
    """Each of them silent."""
    return dict.fromkeys(features, tlt.Ablate())


def on(features: Mapping[Node, float]) -> dict[Node, Edit]:
    """Each of them at its activation."""
    return {feature: tlt.Set(value) for feature, value in features.items()}


def show(found: Explained) -> None:
    """The pruned circuit: how large it is, its scores, its most influential nodes and its strongest edges."""
    graph = found.graph
    pruned = graph.prune(node=0.6, edge=0.9)
    console.print(f"{graph!r}\npruned: {pruned!r}", markup=False)
    console.print(
        f"replacement score {graph.replacement_score:.3f}, completeness {graph.completeness_score:.3f}"
    )
    console.print(nodes_table(pruned), edges_table(pruned))


def nodes_table(graph: tlt.Graph, n: int = 20) -> Table:
    """The features with the most influence."""
    table = Table("feature", "token", "activation", "influence", title="strongest features")
    influence = graph.influence()
    features = graph.nodes.is_a("feature").nonzero()[:, 0]
    best = features[influence[features].argsort(descending=True)[:n]]
    for i, node in zip(best.tolist(), graph.nodes.take(best), strict=True):
        activation = f"{graph.activation[i]:.2f}"
        table.add_row(
            graph.label(node),
            graph.words[int(graph.nodes.pos[i])],
            activation,
            f"{influence[i]:.3f}",
        )
    return table


def edges_table(graph: tlt.Graph, n: int = 20) -> Table:
    """The strongest edges."""
    table = Table("source", "target", "effect", title="strongest edges")
    for source, target, effect in graph.top(n):
        table.add_row(graph.label(source), graph.label(target), f"{effect:+.3f}")
    return table


def effects(
    spliced: tlt.Spliced, asked: Explained, edits: Mapping[str, Mapping[Node, Edit]]
) -> Table:
    """Probabilities of both answers, their logits' difference and the first guess after every edit."""
    model: Any = spliced.model
    ids = [int(model.to_single_token(word)) for word in asked.asked]
    table = Table(
        "edit", *(f"p({word!r})" for word in asked.asked), "logit difference", "first guess"
    )
    for name, edit in edits.items():
        logits = tlt.intervene(spliced, asked.tokens, edit).logits[0, -1]
        p = logits.softmax(-1)
        table.add_row(
            name,
            *(f"{float(p[i]):.4f}" for i in ids),
            f"{float(logits[ids[0]] - logits[ids[1]]):+.2f}",
            repr(model.to_string(logits.argmax())),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
