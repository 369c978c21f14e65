"""`cfg.json` of clt-training's cross-layer runs: which of its options can be loaded exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from tl_transcoders.errors import TranscoderFormatError

Mode = Literal["none", "concat", "per-layer"]

_MODES: Mapping[str, Mode] = {"none": "none", "concat": "concat", "per-layer": "per-layer"}
_EXACT: Mapping[str, object] = {
    "activation": "topk",
    "transcode": True,
    "topk_coalesced": False,
    "divide_cross_layer": False,
    "per_source_tied": False,
    "secondary_target_tied": False,
    "matryoshka": False,
    "use_fp8": False,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """One layer's.

    **Arguments:** `mode`, whose decoders features use: `"none"`, their own for every target; `"concat"`, the
    target's, shared by all sources; `"per-layer"`, the target's for each source.
    """

    d_in: int
    n_features: int
    k: int
    mode: Mode
    n_targets: int
    n_sources: int
    skip: bool
    normalised: bool
    scaled: bool


def layer_config(where: str, data: Mapping[str, object]) -> LayerConfig:
    """Check what computes; raises TranscoderFormatError where an option has no equal here."""
    for key, value in _EXACT.items():
        if data.get(key, value) != value:
            raise _wrong(where, key, data[key], repr(value))
    mode = data.get("coalesce_topk", "none")
    if not isinstance(mode, str) or mode not in _MODES:
        raise _wrong(where, "coalesce_topk", mode, " or ".join(_MODES))
    d_in = _integer(where, data, "d_in", least=1)
    latents = _integer(where, data, "num_latents", least=0)
    n_features = latents or d_in * _integer(where, data, "expansion_factor", least=1)
    k = _integer(where, data, "k", least=1)
    if k > n_features:
        raise _wrong(where, "k", k, f"at most {n_features}, the number of features")
    return LayerConfig(
        d_in=d_in,
        n_features=n_features,
        k=k,
        mode=_MODES[mode],
        n_targets=_integer(where, data, "n_targets", least=1),
        n_sources=max(1, _integer(where, data, "n_sources", least=0)),
        skip=data.get("skip_connection") is True,
        normalised=data.get("normalize_io") is True,
        scaled=data.get("post_encoder_scale") is True,
    )


def is_cross_layer(data: Mapping[str, object]) -> bool:
    """Whether this config has more targets than its own layer, which sparsify's has not."""
    targets = data.get("n_targets")
    return isinstance(targets, int) and targets > 0


def _integer(where: str, data: Mapping[str, object], key: str, *, least: int) -> int:
    value = data.get(key, 0)
    if type(value) is not int or not least <= value < 1 << 31:
        raise _wrong(where, key, value, f"an integer of at least {least}")
    return value


def _wrong(where: str, key: str, value: object, expected: str) -> TranscoderFormatError:
    return TranscoderFormatError(
        f"{where}, {key}",
        got=repr(value)[:100],
        expected=expected,
        do="This option computes what no transcoder here does: the set cannot be loaded.",
    )
