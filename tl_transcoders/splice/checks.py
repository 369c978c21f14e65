"""What must hold before a model is touched."""

from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

from torch import nn

from tl_transcoders._types import ERROR_POLICIES, TRANSCODER_READS, ErrorPolicy, Site
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.hosts import AbstractHost, site_name
from tl_transcoders.splice.finite import check_finite, has_large_decoder
from tl_transcoders.splice.layer_weights import layers_of, units_of
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
    return {(layer, "mlp_out" if cfg.read == "mlp_out_raw" else cfg.read)}


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
            do=(
                "Remove the other splice first: leave its with block, call its remove(), or "
                "tl_transcoders.unsplice(model) if its handle is lost."
            ),
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
    dtypes = (parameter.dtype for parameter in module.parameters())
    check_one_dtype(f"transcoder of layer {layer}", dtypes)
    large = has_large_decoder(module)
    for name, parameter in _parameters_of(module, layer):
        where = f"transcoder of layer {layer}, {name}"
        if parameter.device != host.device:
            raise SpliceError(
                where,
                got=f"weights on {parameter.device}",
                expected=f"weights on {host.device}, where the model is",
                do=f"Call transcoders.to({str(host.device)!r}) first.",
            )
        if not (large and name.startswith("W_dec")):
            check_finite(where, parameter)


def _parameters_of(module: nn.Module, layer: int) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a transcoder, or of one layer of a cross-layer transcoder."""
    suffix = ""
    if isinstance(module, CrossLayerTranscoder):
        suffix = f".{module.layers.index(layer)}"
    return ((name, p) for name, p in module.named_parameters() if name.endswith(suffix))
