"""Where a site lives on either host."""

from typing import Final

from tl_transcoders._types import Site

HOOK_NAMES: Final[dict[Site, str]] = {
    "ln2_normalized": "blocks.{layer}.ln2.hook_normalized",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "z": "blocks.{layer}.attn.hook_z",
}
"""Hook names of the sites that are hook points; `mlp_in` and `mlp_out_raw` are the MLP module's own input and output."""

RESIDUAL_SITES: Final[tuple[Site, ...]] = ("resid_pre", "resid_mid", "resid_post")


def site_name(site: Site, layer: int) -> str:
    """The site as messages name it."""
    if site in HOOK_NAMES:
        return HOOK_NAMES[site].format(layer=layer)
    return f"blocks.{layer}.mlp ({'input' if site == 'mlp_in' else 'output'})"
