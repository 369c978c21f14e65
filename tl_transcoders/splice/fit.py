"""Fitting transcoders trained on a raw model to a processed one, and the reverse.

Processing multiplies the gain of ln2 into the MLP and, where norms subtract the mean (LayerNorm), takes the
mean over `d_model` out of everything that is written to the residual stream.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from tl_transcoders._types import Site
from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import AbstractHost, site_name
from tl_transcoders.splice.fold import centre_reads, centre_writes, fold_norm, ignores_mean
from tl_transcoders.splice.layer_weights import (
    LayerWeights,
    Unit,
    joined,
    layers_of,
    rebuilt,
    units_of,
    weights_of,
)
from tl_transcoders.splice.norms import LOAD_RAW, Norms, norm_of_layer
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    TranscoderConfig,
    TranscoderSet,
)

Fold = Callable[[LayerWeights, int], LayerWeights]


def fit(
    transcoders: TranscoderSet | CrossLayerTranscoder, host: AbstractHost, norms: Norms | None
) -> TranscoderSet | CrossLayerTranscoder:
    """Transcoders that do on `host` what these do on the kind of model, raw or processed, they were trained on.

    These themselves where nothing needs to change. Otherwise frozen ones, which share the weights that stay
    as they were. What a transcoder trained on a processed LayerNorm model writes on a raw one lacks its
    mean over `d_model`, which every later norm removes.

    **Raises:** SpliceError where no exact fold is known.
    """
    return joined(transcoders, [fit_unit(unit, host, norms) for unit in units_of(transcoders)])


def fit_unit(unit: Unit, host: AbstractHost, norms: Norms | None) -> Unit:
    """The same for one transcoder of a set, or a cross-layer transcoder."""
    plan = _plan(unit.cfg, host, norms)
    if plan is None:
        return unit
    both = zip(weights_of(unit), layers_of(unit), strict=True)
    weights = [plan.apply(of_layer, layer) for of_layer, layer in both]
    write = plan.read if unit.cfg.read == unit.cfg.write else unit.cfg.write
    cfg = replace(unit.cfg, read=plan.read, write=write, folded=host.folded)
    return rebuilt(unit, cfg, weights)


@final
@dataclass(frozen=True, slots=True)
class _Plan:
    """Where the fitted transcoder reads, and how its weights change."""

    read: Site
    folds: tuple[Fold, ...] = ()

    def apply(self, weights: LayerWeights, layer: int) -> LayerWeights:
        for fold in self.folds:
            weights = fold(weights, layer)
        return weights


def _plan(
    cfg: TranscoderConfig | CrossLayerConfig, host: AbstractHost, norms: Norms | None
) -> _Plan | None:
    """What to change, or None where the transcoder fits as it is."""
    gain_gone = cfg.folded and not host.folded
    read = "ln2_normalized" if cfg.read == "mlp_in" and gain_gone else cfg.read
    if read == "mlp_out_raw":
        read = _mlp_output(cfg, host)
    trained_mean_free = cfg.folded and host.centred
    reads = _fold_of_reads(cfg, host, norms, trained_mean_free)
    writes = _centre_writes if host.mean_free and not trained_mean_free else None
    folds = tuple(fold for fold in (reads, writes) if fold is not None)
    return _Plan(read, folds) if folds or read != cfg.read else None


def _fold_of_reads(
    cfg: TranscoderConfig | CrossLayerConfig,
    host: AbstractHost,
    norms: Norms | None,
    trained_mean_free: bool,
) -> Fold | None:
    match cfg.read:
        case "mlp_in":
            return _FoldNorm(host, norms) if host.folded and not cfg.folded else None
        case "ln2_normalized":
            return None
        case "z":
            return _refuse_z if cfg.folded != host.folded else None
        case _ if trained_mean_free == host.mean_free:
            return None
        case _:
            return _centre_reads if trained_mean_free else _RequireMeanless(cfg.read)


def _mlp_output(cfg: TranscoderConfig | CrossLayerConfig, host: AbstractHost) -> Site:
    """The hook point at which an SAE of the MLP module's output stands: on models with a post-norm there is none."""
    if isinstance(cfg, CrossLayerConfig) or host.post_norm(cfg.layer) is None:
        return "mlp_out"
    raise SpliceError(
        site_name(cfg.read, cfg.layer),
        got="an SAE of what the MLP returns before the norm that follows it",
        expected="an SAE of what is added to the residual stream, mlp_out, on a model with such a norm",
        do="Use an SAE that was trained behind the norm.",
    )


@final
@dataclass(frozen=True, slots=True)
class _FoldNorm:
    host: AbstractHost
    norms: Norms | None

    def __call__(self, weights: LayerWeights, layer: int) -> LayerWeights:
        return fold_norm(weights, norm_of_layer(self.norms, self.host, layer))


@final
@dataclass(frozen=True, slots=True)
class _RequireMeanless:
    site: Site

    def __call__(self, weights: LayerWeights, layer: int) -> LayerWeights:
        if ignores_mean(weights):
            return weights
        raise SpliceError(
            site_name(self.site, layer),
            got="a processed model, from whose residual stream the mean is gone, and a transcoder trained on a raw one",
            expected="a raw model, because this encoder reads the mean over d_model",
            do=LOAD_RAW,
        )


def _centre_reads(weights: LayerWeights, _: int) -> LayerWeights:
    return centre_reads(weights)


def _centre_writes(weights: LayerWeights, _: int) -> LayerWeights:
    return centre_writes(weights)


def _refuse_z(_: LayerWeights, layer: int) -> LayerWeights:
    raise SpliceError(
        site_name("z", layer),
        got="an SAE trained on a raw model in a processed one, or the reverse",
        expected="both of one kind, because processing moves value biases out of z",
        do="Load the model as it was when the SAE was trained.",
    )
