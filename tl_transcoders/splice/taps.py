"""Which taps a transcoder could have on a model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from tl_transcoders._types import SAE_SITES, Site
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import AbstractHost
from tl_transcoders.splice.fit import fit_unit
from tl_transcoders.splice.layer_weights import Unit, layers_of, rebuilt, weights_of
from tl_transcoders.splice.norms import Norms

Reading = tuple[Site, bool]
"""A read site, and whether the weights are taken as trained on a processed model."""


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights fitted to a model as if trained at `read`, and the sites their output may stand for."""

    read: Site
    folded: bool
    writes: tuple[Site, ...]
    unit: Unit

    @property
    def sites(self) -> set[tuple[int, Site]]:
        """Every place whose value is needed to measure it."""
        read: Site = self.unit.cfg.read
        return {(layer, site) for layer in layers_of(self.unit) for site in (read, *self.writes)}


def candidates(unit: Unit, host: AbstractHost, norms: Norms | None) -> Iterator[Candidate]:
    """The stated tap first, then every other that means something else on this model.

    **Raises:** SpliceError where the stated tap cannot be had on this model.
    """
    seen: set[object] = set()
    stated: Reading = (unit.cfg.read, unit.cfg.folded)
    for read, folded in (stated, *_readings(unit, host)):
        meaning = _meaning(read, folded, host)
        if meaning in seen:
            continue
        writes = _writes(unit, host, read)
        try:
            fitted = _fitted(unit, host, norms, read, writes[0], folded)
        except SpliceError:
            if not seen:
                raise
            continue
        seen.add(meaning)
        yield Candidate(read, folded, writes, fitted)


def _readings(unit: Unit, host: AbstractHost) -> list[Reading]:
    sites: list[Site] = ["ln2_normalized", "resid_mid"]
    if unit.cfg.read == unit.cfg.write:
        first = layers_of(unit)[0]
        sites = [s for s in SAE_SITES if host.site_width(s, first) == unit.cfg.d_in]
    worlds = (unit.cfg.folded, not unit.cfg.folded)
    found: list[Reading] = [(site, folded) for site in sites for folded in worlds]
    return found if unit.cfg.read == unit.cfg.write else [("mlp_in", False), *found]


def _meaning(read: Site, folded: bool, host: AbstractHost) -> object:
    """What is read, so that two names of one quantity are tried once."""
    match read:
        case "mlp_in":
            return "ln2_normalized" if folded else "mlp_in"
        case "ln2_normalized":
            return "ln2_normalized"
        case _:
            site = "mlp_out" if read == "mlp_out_raw" else read
            return site, folded and host.centred


def _writes(unit: Unit, host: AbstractHost, read: Site) -> tuple[Site, ...]:
    if unit.cfg.read == unit.cfg.write:
        return (read,)
    two_places = any(host.post_norm(layer) is not None for layer in layers_of(unit))
    if not two_places:
        return (unit.cfg.write,)
    other: Site = "mlp_out" if unit.cfg.write == "mlp_out_raw" else "mlp_out_raw"
    return unit.cfg.write, other


def _fitted(
    unit: Unit,
    host: AbstractHost,
    norms: Norms | None,
    read: Site,
    write: Site,
    folded: bool,
) -> Unit:
    stated = replace(unit.cfg, read=read, write=write, folded=folded)
    fitted = fit_unit(rebuilt(unit, stated, weights_of(unit)), host, norms)
    if fitted.cfg.read != "mlp_in":
        for layer in layers_of(unit):
            host.hook_point(fitted.cfg.read, layer)
    return fitted
