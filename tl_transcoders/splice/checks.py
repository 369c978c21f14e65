"""What must hold before a model is touched."""

from weakref import WeakKeyDictionary

import torch
from torch import nn

from tl_transcoders._types import ERROR_POLICIES, TRANSCODER_READS, Site
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.hosts import AbstractHost, site_name
from tl_transcoders.splice.layer_weights import layers_of, units_of
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

Swappable = Transcoder | TranscoderSet | CrossLayerTranscoder
Place = tuple[int, str]

_TAKEN: WeakKeyDictionary[nn.Module, set[Place]] = WeakKeyDictionary()


def check_policy(error: object) -> None:
    """Raise ConfigError for an unknown error policy."""
    if error not in ERROR_POLICIES:
        raise ConfigError(
            "error",
            got=repr(error),
            expected=f"one of {', '.join(map(repr, ERROR_POLICIES))}",
            do="Choose what happens to mlp(x) − transcoder(x).",
        )


def as_set(transcoders: Swappable) -> TranscoderSet | CrossLayerTranscoder:
    """A single transcoder as a set of one; raises SpliceError for anything that is no transcoder."""
    if isinstance(transcoders, Transcoder):
        return TranscoderSet({transcoders.cfg.layer: transcoders})
    if isinstance(transcoders, TranscoderSet | CrossLayerTranscoder):
        return transcoders
    raise SpliceError(
        "splice",
        got=f"{type(transcoders).__name__} as transcoders",
        expected="a Transcoder, TranscoderSet or CrossLayerTranscoder",
        do="Load them with tl_transcoders.load, or wrap a dict in TranscoderSet.",
    )


def check_fits(host: AbstractHost, transcoders: TranscoderSet | CrossLayerTranscoder) -> set[Place]:
    """The places the transcoders would take; raises unless each fits its layer: see `check_transcoder`."""
    places: set[Place] = set()
    for unit in units_of(transcoders):
        for layer in layers_of(unit):
            check_transcoder(host, unit, unit.cfg, layer)
            places |= places_of(unit.cfg, layer)
    return places


def check_transcoder(
    host: AbstractHost, module: nn.Module, cfg: TranscoderConfig | CrossLayerConfig, layer: int
) -> None:
    """Raise unless a transcoder fits a layer of the model: layer, sites, widths, device, finite weights."""
    host.check_layer(layer)
    taps: list[tuple[Site, str, int]] = [
        (cfg.read, "d_in", cfg.d_in),
        (cfg.write, "d_out", cfg.d_out),
    ]
    for site, role, width in taps:
        _check_site_exists(host, site, layer)
        if width != host.site_width(site, layer):
            raise ShapeError(
                site_name(site, layer),
                got=f"a transcoder with {role}={width}",
                expected=f"{role}={host.site_width(site, layer)}, the model's width there",
                do="Use transcoders trained on this model.",
            )
    _check_weights(host, module, layer)


def places_of(cfg: TranscoderConfig | CrossLayerConfig, layer: int) -> set[Place]:
    """The places a spliced layer takes up: a transcoder its whole MLP, an SAE its site."""
    if cfg.read in TRANSCODER_READS and cfg.read != cfg.write:
        return {(layer, "mlp"), (layer, "mlp_out")}
    return {(layer, cfg.read)}


def claim(model: nn.Module, places: set[Place]) -> None:
    """Mark places as taken; raise SpliceError where one already is."""
    refuse_taken(model, places)
    _TAKEN.setdefault(model, set()).update(places)


def refuse_taken(model: nn.Module, places: set[Place]) -> None:
    """Raise SpliceError where one of the places is taken."""
    clash = sorted(_TAKEN.get(model, set()) & places)
    if clash:
        layer, place = clash[0]
        raise SpliceError(
            f"blocks.{layer}, {place}",
            got="a place that is already spliced",
            expected="different places for splices that nest",
            do="Remove the other splice first: spliced.remove(), or leave its with block.",
        )


def release(model: nn.Module, places: set[Place]) -> None:
    """Mark places as free."""
    _TAKEN.get(model, set()).difference_update(places)


def _check_site_exists(host: AbstractHost, site: Site, layer: int) -> None:
    if site in ("mlp_in", "mlp_out_raw"):
        host.mlp(layer)
    else:
        host.hook_point(site, layer)


def _check_weights(host: AbstractHost, module: nn.Module, layer: int) -> None:
    for name, parameter in module.named_parameters():
        where = f"transcoder of layer {layer}, {name}"
        if parameter.device != host.device:
            raise SpliceError(
                where,
                got=f"weights on {parameter.device}",
                expected=f"weights on {host.device}, where the model is",
                do=f"Call transcoders.to({str(host.device)!r}) first.",
            )
        if not torch.isfinite(parameter).all():
            raise ConfigError(
                where,
                got="NaN or infinite values",
                expected="finite weights",
                do="Load or train the transcoder again.",
            )
