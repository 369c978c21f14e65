"""By how much every node's value differs between base and source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.nodes import READERS, Reader
from tl_transcoders.splice.trace.forward import Spot
from tl_transcoders.splice.trace.run import Run
from tl_transcoders.transcoders import SparseFeatures

PARTS: Final[tuple[Spot, ...]] = ("z", *READERS)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureChanges:
    """The features of a layer whose activations differ: at which row (prompt · positions + position), which, by how much."""

    row: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    delta: Float[Tensor, " n"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """source − base of every node, by layer."""

    embed: Float[Tensor, "batch pos d_model"]
    heads: Mapping[int, Float[Tensor, "batch pos head d_head"]]
    readers: Mapping[tuple[Reader, int], Float[Tensor, "batch pos head d_head"]]
    mlps: Mapping[int, Float[Tensor, "batch pos d_model"]]
    features: Mapping[int, FeatureChanges]
    errors: Mapping[int, Float[Tensor, "batch pos d_out"]]


def changes(base: Run, source: Run | None) -> Changes:
    """source − base of every node; without a source, − base: what it takes to zero the node."""

    def change(spot: Spot, layer: int) -> Tensor:
        value = base.values[spot, layer]
        return -value if source is None else source.values[spot, layer] - value

    layers = range(base.model.n_layers)
    errors = [layer for layer, coder in base.model.coders.items() if coder.policy != "drop"]
    return Changes(
        embed=-base.embed if source is None else source.embed - base.embed,
        heads={layer: change("z", layer) for layer in layers},
        readers={(part, layer): change(part, layer) for layer in layers for part in READERS},
        mlps={layer: change("mlp_raw", layer) for layer in layers if layer not in base.model.swaps},
        features={layer: _features(base, source, layer) for layer in sorted(base.model.coders)},
        errors={layer: change("error", layer) for layer in errors},
    )


def _features(base: Run, source: Run | None, layer: int) -> FeatureChanges:
    runs = [(base, -1.0)] if source is None else [(base, -1.0), (source, 1.0)]
    keys, values = [], []
    for run, sign in runs:
        features: SparseFeatures = run.values["features", layer]
        keys.append(features.rows() * features.shape[-1] + features.indices)
        values.append(features.values * sign)
    found, inverse = torch.cat(keys).unique(return_inverse=True)
    delta = values[0].new_zeros(len(found)).index_add(0, inverse, torch.cat(values))
    width = base.model.coders[layer].n_features
    changed = delta != 0
    return FeatureChanges(
        row=(found // width)[changed], index=(found % width)[changed], delta=delta[changed]
    )
