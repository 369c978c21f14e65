"""Which sites a SAELens config names."""

from dataclasses import dataclass, replace
from typing import Self, final

from tl_transcoders._types import Site
from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.hook_names import KNOWN, site_of, split_hook

_POST_GAIN = ".pre_feedforward_layernorm.output"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """The layer, and the sites read and written."""

    layer: int
    read: Site
    write: Site

    def writing(self, site: Site) -> Self:
        """The same with another site written."""
        return replace(self, write=site)


def taps(metadata: Fields, *, reads_and_writes: bool) -> Taps:
    """The sites of `hook_name` and `hook_name_out`; an SAE, which `reads_and_writes` one site, names it once.

    **Raises:** TranscoderFormatError for a hook that is none of our sites, and for two different layers.
    """
    layer, read = _site(metadata, "hook_name")
    if reads_and_writes:
        return Taps(layer=layer, read=read, write=read)
    layer_out, write = _site(metadata, "hook_name_out")
    if layer_out != layer:
        raise metadata.wrong(
            "hook_name_out",
            expected=f"a hook of layer {layer}, which it reads",
            do="A transcoder from one layer to another cannot be spliced.",
        )
    return Taps(layer=layer, read=read, write=write)


def _site(metadata: Fields, name: str) -> tuple[int, Site]:
    found = split_hook(metadata.text(name))
    if found is None:
        raise _not_ours(metadata, name)
    layer, hook = found
    if hook == "hook_mlp_in":
        return layer, _mlp_in(metadata, name)
    site = site_of(hook)
    if site is None:
        raise _not_ours(metadata, name)
    return layer, site


def _mlp_in(metadata: Fields, name: str) -> Site:
    """SAELens calls the input of Gemma Scope 2 `hook_mlp_in`, which in TransformerLens lies before the norm."""
    if (metadata.text_or_none("hf_hook_name") or "").endswith(_POST_GAIN):
        return "mlp_in"
    raise metadata.wrong(
        name,
        expected="a hook that lies on one side of the norm for everybody",
        do=(
            "In TransformerLens this hook is before ln2, in SAELens' Gemma Scope 2 after it. Set it to "
            "blocks.L.hook_resid_mid (before) or blocks.L.mlp.hook_in (after)."
        ),
    )


def _not_ours(metadata: Fields, name: str) -> TranscoderFormatError:
    return metadata.wrong(
        name, expected=f"one of {KNOWN}", do="Sets that were trained elsewhere cannot be spliced."
    )
