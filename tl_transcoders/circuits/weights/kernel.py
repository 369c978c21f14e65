"""The other factor of an effect: how much of what is written at one position arrives at another, on a given run.

    effect[s@q → t@p] = activation[s@q] · Σ_j w_{s,j} · N r_t / σ_j(q) · kernel[p, q] / σ_t(p)

σ_j is what the post-norm behind the MLP of layer j divides by (1 where there is none), kernel the identity straight
through the stream, and for a head A[p, q] / (σ of its norm at q · σ of its post-norm at p); for several steps the
product.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.nodes import Feature, Head
from tl_transcoders.circuits.weights.ends import Features, Target
from tl_transcoders.circuits.weights.stream import Stream
from tl_transcoders.circuits.weights.via import Step
from tl_transcoders.hosts import Norm
from tl_transcoders.splice.trace.run import Run


def kernel(
    run: Run, steps: tuple[Step, ...], dtype: torch.dtype
) -> Float[Tensor, "batch to from"] | None:
    """What the steps make of what is written at `from`, arriving at `to`; None for the identity."""
    found: Tensor | None = None
    for step in steps:
        passed = _once(run, step, dtype)
        found = passed if found is None else passed @ found
    return found


def read_scale(
    run: Run, stream: Stream, target: Target, dtype: torch.dtype
) -> Float[Tensor, "batch pos"]:
    """σ of the norm through which a target reads."""
    if not isinstance(target, Feature | Features):
        return _scale(stream.model.anatomy.ln_final, run.resid_final, dtype)
    layer = target.layer
    read = run.values["mlp_in", layer]
    if stream.swap(layer).coder.cfg.read == "resid_mid":
        return torch.ones_like(read[..., 0], dtype=dtype)
    return _scale(stream.block(layer).ln2, read, dtype)


def write_scale(run: Run, layer: int, dtype: torch.dtype) -> Float[Tensor, "batch pos"]:
    """σ of the post-norm behind the MLP of a layer."""
    return _scale(run.model.anatomy.blocks[layer].ln2_post, run.values["mlp_raw", layer], dtype)


def _once(run: Run, step: Step, dtype: torch.dtype) -> Float[Tensor, "batch to from"]:
    block, layer = run.model.anatomy.blocks[step.layer], step.layer
    if isinstance(step, Head):
        pattern = run.values["pattern", layer][:, step.head].to(dtype)
        before = _scale(block.ln1, run.values["resid_pre", layer], dtype)
        behind = _scale(block.ln1_post, run.values["attn_raw", layer], dtype)
        return pattern / before[:, None] / behind[..., None]
    kept = 1 / write_scale(run, layer, dtype)
    if run.model.swaps[layer].coder.cfg.read != "resid_mid":
        kept = kept / _scale(block.ln2, run.values["mlp_in", layer], dtype)
    if run.excluded is not None:
        kept = kept * ~run.excluded
    return torch.diag_embed(kept)


def _scale(
    norm: Norm | None, x: Float[Tensor, "batch pos d_model"], dtype: torch.dtype
) -> Float[Tensor, "batch pos"]:
    return (
        torch.ones_like(x[..., 0], dtype=dtype) if norm is None else norm.scale(x.to(dtype))[..., 0]
    )
