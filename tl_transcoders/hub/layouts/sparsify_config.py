"""What sparsify's `cfg.json` says, now and before 2025-02-12."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.build import transcoder_config
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.layouts.sparsify_hookpoints import Hookpoint
from tl_transcoders.transcoders import TopK, TranscoderConfig

_KEYS = (
    "activation d_in expansion_factor k multi_topk normalize_decoder num_latents signed "
    "skip_connection transcode"
).split()

_FORK: dict[str, object] = {
    "coalesce_topk": "none",
    "d_out": 0,
    "divide_cross_layer": False,
    "matryoshka": False,
    "n_sources": 0,
    "n_targets": 0,
    "normalize_io": False,
    "per_source_tied": False,
    "post_encoder_scale": False,
    "secondary_target_tied": False,
    "use_fp8": False,
}
"""Options of the fork clt-training, with the values at which it computes what sparsify does."""

_FORK_TRAINING = (
    "dtype matryoshka_expansion_factors matryoshka_k_values topk_coalesced tp_output train_post_encoder"
).split()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SparsifyConfig:
    """A transcoder's config, and whether the encoder takes x − b_dec."""

    transcoder: TranscoderConfig
    pre_bias: bool


def sparsify_config(
    where: str, data: Mapping[str, object], hookpoint: Hookpoint, *, transcodes: bool | None
) -> SparsifyConfig:
    """The meaning of a `cfg.json`.

    Until 2025-02-12 a transcoder, too, subtracted b_dec from its input, and its config did not say that it was one.

    **Arguments:** `transcodes`, what the run's own config says, None where there is none.

    **Raises:** TranscoderFormatError, with the reason for what cannot be loaded.
    """
    fields = Fields(where, data)
    _check_options(fields)
    is_transcoder = _is_transcoder(fields, hookpoint, transcodes)
    read, write = ("mlp_in", "mlp_out_raw") if is_transcoder else (hookpoint.output,) * 2
    d_in = fields.integer("d_in")
    cfg = transcoder_config(
        where,
        layer=hookpoint.layer,
        d_in=d_in,
        d_out=d_in,
        n_features=_features(fields, d_in),
        activation=_topk(fields),
        skip=fields.flag("skip_connection"),
        read=read,
        write=write,
    )
    return SparsifyConfig(transcoder=cfg, pre_bias=not fields.flag("transcode"))


def _is_transcoder(fields: Fields, hookpoint: Hookpoint, transcodes: bool | None) -> bool:
    if "transcode" in fields.data:
        is_transcoder: bool | None = fields.flag("transcode")
    else:
        is_transcoder = fields.flag("skip_connection") or transcodes
    if is_transcoder is None and hookpoint.is_mlp:
        raise TranscoderFormatError(
            fields.where,
            got="no transcode, in this config of before 2025-02-12, and no config.json of the run",
            expected="one of them to say whether this is a transcoder or an SAE of the MLP's output",
            do='Put the run\'s config.json beside the folders, or one that says {"transcode": true}.',
        )
    if is_transcoder and not hookpoint.is_mlp:
        raise TranscoderFormatError(
            fields.where,
            got=f"a transcoder of {hookpoint.module or 'a whole block'}",
            expected="a transcoder of an MLP",
            do="Only MLPs can be replaced.",
        )
    return bool(is_transcoder)


def _features(fields: Fields, d_in: int) -> int:
    """A number of 0, or none, stands for the expansion factor."""
    given = fields.integer("num_latents") if "num_latents" in fields.data else 0
    return given or d_in * fields.integer("expansion_factor")


def _topk(fields: Fields) -> TopK:
    k = fields.integer("k")
    if k < 1:
        raise fields.wrong("k", expected="at least 1", do="Correct the config.")
    return TopK(k)


def _check_options(fields: Fields) -> None:
    fields.refuse_unknown([*_KEYS, *_FORK, *_FORK_TRAINING])
    if fields.data.get("activation", "topk") != "topk":
        raise fields.wrong(
            "activation",
            expected="'topk'",
            do="groupmax keeps one feature of every group, which no activation here does.",
        )
    if fields.flag("signed"):
        raise fields.wrong("signed", expected="false", do="Negative features are not supported.")
    for name, neutral in _FORK.items():
        if fields.data.get(name, neutral) != neutral:
            raise fields.wrong(
                name,
                expected=repr(neutral),
                do="This option of clt-training changes what is computed.",
            )
