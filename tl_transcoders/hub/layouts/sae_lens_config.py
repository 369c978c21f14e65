"""What SAELens' `cfg.json` says, of version 6 and of the flat ones before it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from tl_transcoders.hub.build import transcoder_config
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.layouts.sae_lens_flat import migrated
from tl_transcoders.hub.layouts.sae_lens_taps import Taps, taps
from tl_transcoders.transcoders import Activation, JumpReLU, ReLU, TopK, TranscoderConfig

ARCHITECTURES = (
    "standard",
    "topk",
    "jumprelu",
    "gated",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)

_KEYS = (
    "architecture d_in d_sae d_out dtype device apply_b_dec_to_input normalize_activations "
    "reshape_activations metadata k rescale_acts_by_decoder_norm use_b_dec_out "
    "sae_lens_version sae_lens_training_version"
).split()

_MAJOR = re.compile(r"(\d{1,4})\.")

_REFUSED = {
    "abstopk": "it keeps the k features of largest magnitude, negative ones too",
    "batchtopk": "only a training run stores it: SAELens publishes such an SAE as jumprelu",
    "matryoshka_batchtopk": "only a training run stores it: SAELens publishes such an SAE as jumprelu",
    "temporal": "its features depend on other positions",
    "matching_pursuit": "it encodes iteratively",
}

_NORMS = {
    "layer_norm": "the input is normalised token by token and the output restored: not affine",
    "constant_norm_rescale": "the input is rescaled token by token: not affine",
    "covariance_whitening": "the whitening matrix is not in these files",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SaeLensConfig:
    """A transcoder's config, and what SAELens does to its weights that the core does not.

    **Arguments:**

    - `architecture`: one of `ARCHITECTURES`.
    - `pre_bias`: whether the encoder takes x − b_dec.
    - `decoder_norms`: whether the activation compares pre · |W_dec|.
    - `input_scale`: whether the input is multiplied by a scale that lies in another file.
    - `b_dec_out`: whether an output bias of its own may stand beside b_dec.
    """

    transcoder: TranscoderConfig
    architecture: str
    model_name: str | None
    pre_bias: bool
    decoder_norms: bool
    input_scale: bool
    b_dec_out: bool


def sae_lens_config(where: str, data: Mapping[str, object]) -> SaeLensConfig:
    """The meaning of a `cfg.json`; raises TranscoderFormatError, with the reason for what cannot be folded."""
    fields = Fields(where, data)
    if _is_flat(fields):
        fields = migrated(fields)
    fields.refuse_unknown(_KEYS)
    architecture = _architecture(fields)
    is_transcoder = architecture.endswith("transcoder")
    _check_head(fields)
    transcodes_as_sae = "use_b_dec_out" in data
    found = taps(fields.nested("metadata"), reads_and_writes=not is_transcoder)
    if transcodes_as_sae:
        found = found.writing("mlp_out")
    return SaeLensConfig(
        transcoder=_transcoder(fields, architecture, found, folded=transcodes_as_sae),
        architecture=architecture,
        model_name=fields.nested("metadata").text_or_none("model_name"),
        pre_bias=_pre_bias(fields, is_transcoder),
        decoder_norms=architecture == "topk" and fields.flag("rescale_acts_by_decoder_norm"),
        input_scale=_input_scale(fields, is_transcoder),
        b_dec_out=fields.flag("use_b_dec_out"),
    )


def _is_flat(fields: Fields) -> bool:
    version = fields.text_or_none("sae_lens_version")
    version = version or fields.nested("metadata").text_or_none("sae_lens_version") or "0"
    major = _MAJOR.match(version)
    return major is None or int(major[1]) < 6


def _architecture(fields: Fields) -> str:
    name = fields.text("architecture")
    if name in ARCHITECTURES:
        return name
    raise fields.wrong(
        "architecture",
        expected=f"one of {', '.join(ARCHITECTURES)}",
        do=f"It cannot be loaded: {_REFUSED.get(name, 'this architecture is not known')}.",
    )


def _transcoder(fields: Fields, name: str, found: Taps, *, folded: bool) -> TranscoderConfig:
    metadata = fields.nested("metadata")
    d_in = fields.integer("d_in")
    return transcoder_config(
        fields.where,
        layer=found.layer,
        d_in=d_in,
        d_out=fields.integer("d_out") if name.endswith("transcoder") else d_in,
        n_features=fields.integer("d_sae"),
        activation=_activation(fields, name),
        skip="skip" in name,
        read=found.read,
        write=found.write,
        folded=folded or metadata.nested("model_from_pretrained_kwargs").flag("fold_ln"),
    )


def _activation(fields: Fields, architecture: str) -> Activation:
    if architecture.startswith("jumprelu") or architecture == "gated":
        return JumpReLU()
    if architecture != "topk":
        return ReLU()
    k = fields.integer("k")
    if k < 1:
        raise fields.wrong("k", expected="at least 1", do="Correct the config.")
    return TopK(k)


def _check_head(fields: Fields) -> None:
    metadata = fields.nested("metadata")
    for name in ("hook_head_index", "hook_head_index_out"):
        if metadata.data.get(name) is not None:
            raise metadata.wrong(
                name,
                expected="null",
                do="An SAE of a single head cannot be spliced: use one of the whole site.",
            )


def _pre_bias(fields: Fields, is_transcoder: bool) -> bool:
    given = fields.flag("apply_b_dec_to_input", default=True)
    if given and is_transcoder:
        raise fields.wrong(
            "apply_b_dec_to_input",
            expected="false, because b_dec has the width of the output",
            do="Correct the config.",
        )
    return given


def _input_scale(fields: Fields, is_transcoder: bool) -> bool:
    norm = fields.text_or_none("normalize_activations") or "none"
    if norm == "none":
        return False
    if norm == "expected_average_only_in" and not is_transcoder:
        return True
    reason = _NORMS.get(norm, "its effect on the output is not defined")
    raise fields.wrong(
        "normalize_activations",
        expected='"none", or "expected_average_only_in" of an SAE',
        do=f"It cannot be folded into the weights: {reason}.",
    )
