"""What must hold before a model is touched."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tl_transcoders._types import ERROR_POLICIES, TRANSCODER_READS, ErrorPolicy, Site
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.hosts import RESIDUAL_SITES, AbstractHost, site_name
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)
from tl_transcoders.transcoders.transcoder import check_one_dtype

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


def check_base(error: ErrorPolicy) -> None:
    """Raise ConfigError where no base run is used."""
    if error != "freeze":
        raise ConfigError(
            "base run",
            got=f"one for error={error!r}",
            expected="one for error='freeze', which alone uses it",
            do="Splice with error='freeze', or leave base out.",
        )


def check_transcoder(
    host: AbstractHost, module: nn.Module, cfg: TranscoderConfig | CrossLayerConfig, layer: int
) -> None:
    """Raise unless a transcoder fits a layer of the model: layer, sites, widths, device, finite weights, folding."""
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
    _check_folding(host, cfg, layer)


def places_of(cfg: TranscoderConfig | CrossLayerConfig, layer: int) -> set[Place]:
    """The places a spliced layer takes up: a transcoder its whole MLP, an SAE its site."""
    if cfg.read in TRANSCODER_READS and cfg.read != cfg.write:
        return {(layer, "mlp"), (layer, "mlp_out")}
    return {(layer, cfg.read)}


def check_original(model: nn.Module, sites: Iterable[tuple[int, Site]]) -> None:
    """Raise SpliceError where a splice stands at one of these sites, so that they do not carry the model's own values."""
    taken = _TAKEN.get(model, set())
    for layer, site in sites:
        if (layer, "mlp" if site in ("mlp_in", "mlp_out_raw") else site) in taken:
            raise SpliceError(
                f"layer {layer}, {site}",
                got="a splice that stands there, whose output would be learnt in the model's place",
                expected="the model's own activations",
                do="Train outside the with block, or call tl_transcoders.unsplice(model) first.",
            )


def claim(model: nn.Module, places: set[Place]) -> None:
    """Mark places as taken; raise SpliceError where one already is."""
    taken = _TAKEN.setdefault(model, set())
    clash = sorted(taken & places)
    if clash:
        layer, place = clash[0]
        raise SpliceError(
            f"blocks.{layer}, {place}",
            got="a place that is already spliced",
            expected="different places for splices that nest",
            do=(
                "Remove the other splice first: leave its with block, call its remove(), or "
                "tl_transcoders.unsplice(model) if its handle is lost."
            ),
        )
    taken |= places


def release(model: nn.Module, places: set[Place]) -> None:
    """Mark places as free."""
    _TAKEN.get(model, set()).difference_update(places)


def _check_site_exists(host: AbstractHost, site: Site, layer: int) -> None:
    if site in ("mlp_in", "mlp_out_raw"):
        host.mlp(layer)
    else:
        host.hook_point(site, layer)


def _check_weights(host: AbstractHost, module: nn.Module, layer: int) -> None:
    dtypes = (parameter.dtype for parameter in module.parameters())
    check_one_dtype(f"transcoder of layer {layer}", dtypes)
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


def _check_folding(
    host: AbstractHost, cfg: TranscoderConfig | CrossLayerConfig, layer: int
) -> None:
    same_either_way = cfg.read == "ln2_normalized" or (
        cfg.read in RESIDUAL_SITES and not host.centred
    )
    if cfg.folded == host.folded or same_either_way:
        return
    worlds = {True: "processed (norm gains folded)", False: "raw (norm gains not folded)"}
    raise SpliceError(
        site_name(cfg.read, layer),
        got=f"a {worlds[host.folded]} model and a transcoder trained on a {worlds[cfg.folded]} one",
        expected="both of one kind, because the input of the MLP differs by the gain of ln2",
        do=(
            "Load the model without weight processing (Bridge: no enable_compatibility_mode; "
            "HookedTransformer: from_pretrained_no_processing)."
            if host.folded
            else "Load the model with weight processing (Bridge: enable_compatibility_mode())."
        ),
    )
