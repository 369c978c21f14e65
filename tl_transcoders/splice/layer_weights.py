"""The weights of a transcoder layer by layer, and transcoders made of them again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never, final

from jaxtyping import Float
from torch import Tensor

from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

Unit = Transcoder | CrossLayerTranscoder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """What a fold may change in one layer; in a cross-layer transcoder `W_dec` is `[target feature d_out]`."""

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "*target feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_skip: Float[Tensor, "d_in d_out"] | None


def units_of(transcoders: TranscoderSet | CrossLayerTranscoder) -> list[Unit]:
    """What can be computed by itself: each transcoder of a set, a cross-layer transcoder as a whole."""
    if isinstance(transcoders, CrossLayerTranscoder):
        return [transcoders]
    return list(transcoders.values())


def layers_of(unit: Unit) -> tuple[int, ...]:
    """The layers a unit stands in."""
    return (unit.cfg.layer,) if isinstance(unit, Transcoder) else unit.layers


def weights_of(unit: Unit) -> list[LayerWeights]:
    """One record for each of its layers, without gradient."""
    match unit:
        case Transcoder():
            rows = [(unit.W_enc, unit.b_enc, unit.W_dec, unit.b_dec, unit.W_skip)]
        case CrossLayerTranscoder():
            skips = [None] * len(unit.layers) if unit.W_skip is None else unit.W_skip
            rows = zip(unit.W_enc, unit.b_enc, unit.W_dec, unit.b_dec, skips, strict=True)
        case _:
            assert_never(unit)
    return [
        LayerWeights(
            W_enc=W_enc.detach(),
            b_enc=b_enc.detach(),
            W_dec=W_dec.detach(),
            b_dec=b_dec.detach(),
            W_skip=None if W_skip is None else W_skip.detach(),
        )
        for W_enc, b_enc, W_dec, b_dec, W_skip in rows
    ]


def rebuilt(
    unit: Unit, cfg: TranscoderConfig | CrossLayerConfig, weights: Sequence[LayerWeights]
) -> Unit:
    """A frozen unit of another config and other weights, with the thresholds of `unit`; nothing is copied."""
    match unit, cfg:
        case Transcoder(), TranscoderConfig():
            return _rebuilt_transcoder(unit, cfg, weights[0])
        case CrossLayerTranscoder(), CrossLayerConfig():
            return _rebuilt_cross_layer(unit, cfg, weights)
        case _:
            raise TypeError(f"{type(unit).__name__} cannot have a {type(cfg).__name__}")


def joined(
    like: TranscoderSet | CrossLayerTranscoder, units: Sequence[Unit]
) -> TranscoderSet | CrossLayerTranscoder:
    """The inverse of `units_of`; `like` itself where nothing has changed."""
    before = units_of(like)
    if all(unit is old for unit, old in zip(units, before, strict=True)):
        return like
    match units:
        case [CrossLayerTranscoder() as clt]:
            return clt
        case _:
            each = [unit for unit in units if isinstance(unit, Transcoder)]
            return TranscoderSet({unit.cfg.layer: unit for unit in each}, origin=like.origin)


def _rebuilt_transcoder(
    unit: Transcoder, cfg: TranscoderConfig, weights: LayerWeights
) -> Transcoder:
    return Transcoder(
        cfg,
        W_enc=weights.W_enc,
        b_enc=weights.b_enc,
        W_dec=weights.W_dec,
        b_dec=weights.b_dec,
        W_skip=weights.W_skip,
        threshold=None if unit.threshold is None else unit.threshold.detach(),
    ).requires_grad_(False)


def _rebuilt_cross_layer(
    clt: CrossLayerTranscoder, cfg: CrossLayerConfig, weights: Sequence[LayerWeights]
) -> CrossLayerTranscoder:
    return CrossLayerTranscoder(
        cfg,
        W_enc=[w.W_enc for w in weights],
        b_enc=[w.b_enc for w in weights],
        W_dec=[w.W_dec for w in weights],
        b_dec=[w.b_dec for w in weights],
        W_skip=[w.W_skip for w in weights if w.W_skip is not None] or None,
        threshold=None if clt.threshold is None else [t.detach() for t in clt.threshold],
        origin=clt.origin,
    ).requires_grad_(False)
