"""Sparsify's hookpoints: names of Hugging Face modules, of which a transcoder replaces one and an SAE reads one."""

import re
from dataclasses import dataclass
from typing import final

from tl_transcoders._types import Site

_NAME = re.compile(r"(?:\w+\.)?(?:layers|h|blocks)\.(\d{1,6})(?:\.(\w+))?")
_SEED = re.compile(r"seed\d+")

_OUTPUTS: dict[str | None, Site] = {
    None: "resid_post",
    "mlp": "mlp_out_raw",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
}


@final
@dataclass(frozen=True, slots=True)
class Hookpoint:
    """A block, or with `module` a part of it."""

    layer: int
    module: str | None

    @property
    def is_mlp(self) -> bool:
        """Whether a transcoder can stand there."""
        return self.module == "mlp"

    @property
    def output(self) -> Site:
        """The site of what the module returns."""
        return _OUTPUTS[self.module]


def parse_hookpoint(name: str) -> Hookpoint | None:
    """`layers.3.mlp`, `model.layers.3`, `h.3.attn`, `gpt_neox.layers.3.mlp`; None for anything else."""
    found = _NAME.fullmatch(name)
    if found is None or found[2] not in _OUTPUTS:
        return None
    return Hookpoint(int(found[1]), found[2])


def hookpoint_of(folder: str) -> Hookpoint | None:
    """The hookpoint a folder is named after: `best/layers.3.mlp/seed1/`; None where it is none."""
    *_, last = parts = folder.rstrip("/").split("/")
    if _SEED.fullmatch(last) and len(parts) > 1:
        last = parts[-2]
    return parse_hookpoint(last)
