"""The layouts that share the tests of `test_layouts` and `test_hostile`; one line adds another."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hub.published import gemma_scope_2, sae_lens, sparsify


@dataclass(frozen=True)
class Layout:
    """How to write it, one weight file and one config of it, and what to ask for."""

    write: Callable[[Path], None]
    weights: str
    config: str
    request: dict[str, Any]


LAYOUTS = {
    "sae_lens": Layout(
        lambda folder: sae_lens.write(folder, case="jumprelu_skip_transcoder", layers=(1, 3)),
        "layer_3/sae_weights.safetensors",
        "layer_3/cfg.json",
        {"layers": [3]},
    ),
    "sparsify": Layout(
        sparsify.write, "layers.3.mlp/sae.safetensors", "layers.3.mlp/cfg.json", {"layers": [3]}
    ),
    "gemma_scope_2": Layout(
        gemma_scope_2.write,
        "transcoder_all/layer_2_width_16k_l0_small_affine/params.safetensors",
        "transcoder_all/layer_2_width_16k_l0_small_affine/config.json",
        {"layers": [2], "kind": "transcoder_all_affine"},
    ),
    "gemma_scope_2_clt": Layout(
        gemma_scope_2.write,
        "clt/width_262k_l0_medium_affine/params_layer_1.safetensors",
        "clt/width_262k_l0_medium_affine/config.json",
        {"kind": "clt_affine"},
    ),
}
