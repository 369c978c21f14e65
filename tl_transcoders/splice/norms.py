"""The gains of a model's norms, kept for the time after its weights have been processed."""

from collections.abc import Mapping

from torch import nn

from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import AbstractHost, NormWeights, resolve_host, site_name

Norms = Mapping[int, NormWeights]
"""The norm before the MLP, by layer."""


LOAD_RAW = (
    "Load the model without weight processing (Bridge: no enable_compatibility_mode; "
    "HookedTransformer: from_pretrained_no_processing)."
)


def norms_of(model: nn.Module) -> dict[int, NormWeights]:
    """Gain and bias of ln2 in every block of a raw model.

    Processing (HookedTransformer by default, a Bridge in compatibility mode) folds them into other weights,
    after which transcoders trained on the raw model fit only if they are given: `splice(..., norms=norms)`.

    **Raises:** SpliceError where the model is processed already, or a block has no such norm.

    ```python
    norms = norms_of(bridge)
    bridge.enable_compatibility_mode()
    ```
    """
    host = resolve_host(model)
    return {layer: host.norm(layer) for layer in range(host.n_layers)}


def norm_of_layer(norms: Norms | None, host: AbstractHost, layer: int) -> NormWeights:
    """The given norm of a layer, where the model is; raises SpliceError where there is none or it has another width."""
    norm = None if norms is None else norms.get(layer)
    if norm is None or len(norm.gain) != host.d_model:
        raise SpliceError(
            site_name("mlp_in", layer),
            got=(
                "a processed model, from which the gain of ln2 is gone, and a transcoder trained on a raw one"
                if norm is None
                else f"a gain of ln2 of width {len(norm.gain)} for a model of width {host.d_model}"
            ),
            expected="the gain of this model's ln2, by which the input of a raw model's MLP differs",
            do=f"{LOAD_RAW} Or pass norms=norms_of(model), taken before it was processed.",
        )
    bias = None if norm.bias is None else norm.bias.to(host.device)
    return NormWeights(norm.gain.to(host.device), bias)
