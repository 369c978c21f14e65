"""Transcoders and SAEs of every kind that SAELens has, made from a seed."""

from tests.hub.samples import randomise
from tl_transcoders._types import Site
from tl_transcoders.transcoders import (
    Activation,
    BatchTopK,
    JumpReLU,
    ReLU,
    TopK,
    Transcoder,
    TranscoderConfig,
)

_TRANSCODERS: dict[str, tuple[Activation, bool]] = {
    "transcoder": (ReLU(), False),
    "skip_transcoder": (ReLU(), True),
    "jumprelu_transcoder": (JumpReLU(), False),
    "jumprelu_skip_transcoder": (JumpReLU(), True),
    "batchtopk_transcoder": (BatchTopK(3), False),
}
_SAES: dict[str, tuple[Activation, Site]] = {
    "standard": (ReLU(), "resid_post"),
    "topk": (TopK(3), "mlp_out"),
    "jumprelu": (JumpReLU(), "resid_pre"),
    "hook_z": (ReLU(), "z"),
}
CASES = (*_TRANSCODERS, *_SAES)


def exported(case: str, *, layer: int = 3) -> Transcoder:
    if case in _TRANSCODERS:
        activation, skip = _TRANSCODERS[case]
        taps: dict[str, Site] = {"read": "mlp_in", "write": "mlp_out"}
        d_out = 7
    else:
        activation, site = _SAES[case]
        skip, taps, d_out = False, {"read": site, "write": site}, 5
    cfg = TranscoderConfig(
        layer=layer,
        d_in=5,
        d_out=d_out,
        n_features=11,
        activation=activation,
        skip=skip,
        read=taps["read"],
        write=taps["write"],
    )
    made = Transcoder.init(cfg, seed=0)
    randomise(made, seed=layer)
    return made
