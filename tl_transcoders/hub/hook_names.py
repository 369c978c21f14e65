"""TransformerLens hook names, as published configs spell them, and the sites they mean."""

import re

from tl_transcoders._types import Site
from tl_transcoders.hub.fields import Fields

_HOOK = re.compile(r"blocks\.(\d{1,6})\.(\S+)")

_SITES: dict[str, Site] = {
    "ln2.hook_normalized": "ln2_normalized",
    "mlp.hook_in": "mlp_in",
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "mlp.hook_out": "mlp_out_raw",
    "hook_mlp_out": "mlp_out",
    "hook_attn_out": "attn_out",
    "attn.hook_z": "z",
}
_HOOKS: dict[Site, str] = {site: hook for hook, site in _SITES.items()}

KNOWN = ", ".join(f"blocks.L.{hook}" for hook in _SITES)


def split_hook(name: str) -> tuple[int, str] | None:
    """Layer and the rest of `blocks.{layer}.{rest}`; None where the name has another form."""
    found = _HOOK.fullmatch(name)
    return None if found is None else (int(found[1]), found[2])


def site_of(hook: str) -> Site | None:
    """The site of a hook name without its `blocks.{layer}.`; None where it is none of ours."""
    return _SITES.get(hook)


def hook_name(site: Site, layer: int) -> str:
    """The hook name of a site."""
    return f"blocks.{layer}.{_HOOKS[site]}"


def tap(fields: Fields, name: str) -> tuple[int, Site]:
    """Layer and site of the hook that a config names; raises TranscoderFormatError where it is none of ours."""
    hook = split_hook(fields.text(name))
    site = None if hook is None else site_of(hook[1])
    if hook is None or site is None:
        raise fields.wrong(name, expected=f"one of {KNOWN}", do="No other place can be spliced.")
    return hook[0], site
