"""The dimension and site vocabulary, shared by annotations, einsums and messages.

Dimensions: `batch pos d_model d_in d_out feature head d_head layer target active row vocab`.
"""

from typing import Literal, get_args

Site = Literal[
    "mlp_in",
    "ln2_normalized",
    "resid_pre",
    "resid_mid",
    "resid_post",
    "mlp_out_raw",
    "mlp_out",
    "attn_out",
    "z",
]
"""A host-independent place in a block.

`mlp_in` is what the MLP module receives (after the gain of ln2), `ln2_normalized` the same before the
gain, `mlp_out_raw` what the MLP module returns, `mlp_out` what is added to the residual stream (after
any post-norm).
"""

SITES: tuple[Site, ...] = get_args(Site)
TRANSCODER_READS: tuple[Site, ...] = ("mlp_in", "ln2_normalized", "resid_mid")
TRANSCODER_WRITES: tuple[Site, ...] = ("mlp_out_raw", "mlp_out")
SAE_SITES: tuple[Site, ...] = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "mlp_out_raw",
    "z",
)

ErrorPolicy = Literal["drop", "keep", "freeze"]
"""What a splice does with mlp(x) − transcoder(x); see `tl_transcoders.splice`."""

ERROR_POLICIES: tuple[ErrorPolicy, ...] = get_args(ErrorPolicy)
