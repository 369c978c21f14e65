"""The shipped year-span model and its transcoders."""

from pathlib import Path
from typing import Any, Literal, get_args

from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts.boot import boot_bridge, boot_hooked_gpt2
from tl_transcoders.hub import load
from tl_transcoders.transcoders import CrossLayerTranscoder, TranscoderSet

NAME = "year-span"
DATA = Path(__file__).parent / "data"
MODEL = DATA / "model"

Kind = Literal["relu", "topk", "skip", "sae", "clt"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def load_model(*, compatibility: bool = False) -> Any:
    """The model as a TransformerBridge (transformer-lens 3.9 and 4).

    **Arguments:** `compatibility`, whether norm gains are folded into the weights. The shipped
    transcoders belong to the model that is not folded.
    """
    return boot_bridge(MODEL, name=NAME, compatibility=compatibility)


def load_hooked(*, processed: bool = False) -> Any:
    """The model as a HookedTransformer; raises ConfigError on transformer-lens 4, which has none.

    **Arguments:** `processed`, as `compatibility` of `load_model`.
    """
    return boot_hooked_gpt2(MODEL, name=NAME, processed=processed)


def load_transcoders(kind: Kind = "skip") -> TranscoderSet | CrossLayerTranscoder:
    """The transcoders shipped with the model, of every layer.

    **Arguments:** `kind`: `"relu"`, `"topk"` and `"skip"` (TopK with a skip connection) are transcoders,
    `"sae"` are TopK SAEs of `resid_post`, `"clt"` is a cross-layer transcoder.
    """
    if kind not in KINDS:
        raise ConfigError(
            "load_transcoders",
            got=f"kind {kind!r}",
            expected=f"one of {', '.join(KINDS)}",
            do="Choose one of these.",
        )
    return load(DATA / kind)
