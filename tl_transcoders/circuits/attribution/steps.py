"""The points a method visits, and what each counts for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from torch import Tensor

from tl_transcoders.circuits.attribution.changes import Changes
from tl_transcoders.circuits.attribution.methods import (
    AttributionPatching,
    IntegratedGradients,
    Method,
)
from tl_transcoders.circuits.attribution.point import Differentiator, Move, Place, Point
from tl_transcoders.circuits.attribution.score import Family, Kind


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A point, its weight, and the families it counts for (None: all)."""

    point: Point
    weight: float = 1.0
    families: frozenset[Family] | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """From base to source: all inputs together, or what one layer's heads or MLP write after another."""

    families: frozenset[Family]
    move: Move

    def part(self, alpha: float) -> Move:
        """The same, `alpha` of the way."""
        embed = None if self.move.embed is None else self.move.embed * alpha
        return Move(embed=embed, added={p: d * alpha for p, d in self.move.added.items()})


def steps(method: Method, way: Differentiator, changes: Changes) -> Iterator[Step]:
    """The points a method visits."""
    match method:
        case IntegratedGradients(n, over):
            for journey in journeys(over, way, changes):
                for k in range(n):
                    point = way.at(journey.part((k + 0.5) / n))
                    families = None if over == "inputs" else journey.families
                    yield Step(point=point, weight=1 / n, families=families)
        case AttributionPatching(qk_fix=qk_fix):
            yield Step(point=way.at(Move(), patterns=qk_fix))
        case _:
            yield Step(point=way.at(Move()))


def journeys(over: str, way: Differentiator, changes: Changes) -> list[Journey]:
    """All inputs at once, or one layer's heads, or one layer's MLP with its features and error, after another."""
    return [inputs(way, changes)] if over == "inputs" else [*_activations(way, changes)]


def inputs(way: Differentiator, changes: Changes) -> Journey:
    """Embeddings, and errors where they are kept and do not answer by themselves."""
    frozen = changes.errors if way.errors == "freeze" else {}
    families: list[Family] = [("embed", 0), *(("error", layer) for layer in frozen)]
    added: dict[Place, Tensor] = {("error", layer): d for layer, d in frozen.items()}
    return Journey(families=frozenset(families), move=Move(embed=changes.embed, added=added))


def _activations(way: Differentiator, changes: Changes) -> Iterator[Journey]:
    yield Journey(families=_of(0, "embed"), move=Move(embed=changes.embed))
    for layer in range(way.run.model.n_layers):
        z: dict[Place, Tensor] = {("z", layer): changes.heads[layer]}
        yield Journey(families=_of(layer, "head"), move=Move(added=z))
        if layer in changes.mlps:
            raw: dict[Place, Tensor] = {("mlp_raw", layer): changes.mlps[layer]}
            yield Journey(families=_of(layer, "mlp"), move=Move(added=raw))
        if layer in changes.features:
            written = Move(added=_written(way, changes, layer))
            yield Journey(families=_of(layer, "feature", "error"), move=written)


def _of(layer: int, *kinds: Kind) -> frozenset[Family]:
    return frozenset((kind, layer) for kind in kinds)


def _written(way: Differentiator, changes: Changes, layer: int) -> dict[Place, Tensor]:
    """What the features and the error of a layer write more in the source run."""
    added: dict[Place, Tensor] = {}
    some = changes.features[layer]
    for target, coder in way.run.model.coders.items():
        if layer in coder.sources:
            rows = some.delta[:, None] * coder.decoder(layer)[some.index]
            flat = rows.new_zeros(way.run.tokens.numel(), rows.shape[1])
            change = flat.index_add(0, some.row, rows).unflatten(0, way.run.shape)
            if target == layer and layer in changes.errors:
                change = change + changes.errors[layer]
            added["sae_out" if target in way.run.model.saes else "mlp_raw", target] = change
    return added
