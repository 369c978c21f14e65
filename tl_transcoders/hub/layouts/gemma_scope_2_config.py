"""What Gemma Scope 2 says about a set: its `config.json`, or where there is none, its folder's name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from tl_transcoders._types import Site
from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.fields import Fields

_SITES: dict[str, Site] = {
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
    "self_attn.o_proj.input": "z",
    "output": "resid_post",
}
_HOOK = re.compile(r"(?:\w+\.)*layers\.(\d{1,6}|\{\w*\})\.(\S+)")

_TAPS: dict[str, tuple[Site, Site]] = {
    "transcoder": ("mlp_in", "mlp_out"),
    "clt": ("mlp_in", "mlp_out"),
    "resid_post": ("resid_post", "resid_post"),
    "attn_out": ("z", "z"),
    "mlp_out": ("mlp_out", "mlp_out"),
}

KINDS = tuple(_TAPS)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GemmaScope2Config:
    """The sites read and written, the model, and whether there is an affine skip connection."""

    read: Site
    write: Site
    affine: bool
    model_name: str | None


def of_folder(kind: str) -> GemmaScope2Config:
    """What the name of a kind says: `transcoder_all_affine`, `resid_post_all`, `clt`."""
    family = next(family for family in KINDS if kind.startswith(family))
    read, write = _TAPS[family]
    return GemmaScope2Config(read=read, write=write, affine="_affine" in kind, model_name=None)


def of_config(
    where: str, data: Mapping[str, object], kind: str, *, layer: int | None
) -> GemmaScope2Config:
    """What `config.json` says; raises TranscoderFormatError where it contradicts the kind or the layer.

    **Arguments:** `layer`, the one its hooks must name; None for a cross-layer transcoder.
    """
    fields, folder = Fields(where, data), of_folder(kind)
    if fields.text("architecture") != "jump_relu":
        raise fields.wrong("architecture", expected="'jump_relu'", do="Choose another set.")
    read = _site(fields, "hf_hook_point_in", folder.read, layer)
    is_sae = folder.read == folder.write
    write = read if is_sae else _site(fields, "hf_hook_point_out", folder.write, layer)
    return GemmaScope2Config(
        read=read,
        write=write,
        affine=fields.flag("affine_connection", default=folder.affine),
        model_name=_model(fields.text_or_none("model_name")),
    )


def _site(fields: Fields, name: str, default: Site, layer: int | None) -> Site:
    """One hook, or with `layer=None` also a list of them, one for every layer."""
    value = fields.data.get(name)
    if value is None:
        return default
    hooks = value if isinstance(value, list) and layer is None else [value]
    sites: set[Site | None] = {_site_of(hook, layer) for hook in hooks}
    site = sites.pop() if len(sites) == 1 else None
    if site is None:
        raise _unknown(fields, name, layer)
    return site


def _site_of(hook: object, layer: int | None) -> Site | None:
    found = _HOOK.fullmatch(hook) if isinstance(hook, str) else None
    if found is None or (layer is not None and found[1] != str(layer)):
        return None
    return _SITES.get(found[2])


def _unknown(fields: Fields, name: str, layer: int | None) -> TranscoderFormatError:
    of = "L" if layer is None else layer
    hooks = ", ".join(f"model.layers.{of}.{hook}" for hook in _SITES)
    return fields.wrong(name, expected=f"one of {hooks}", do="Choose another set.")


def _model(name: str | None) -> str | None:
    """The repository of the model; the configs also spell it `gemma-v3-…`, and 270m has no `-pt` there."""
    if name is None:
        return None
    full = name if "/" in name else f"google/{name}"
    full = full.replace("gemma-v3-", "gemma-3-")
    return full.removesuffix("-pt") if "270m" in full else full
