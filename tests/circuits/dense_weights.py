"""Connections written out as dense products in float64, straight from the model's parameters: slow, for comparison."""

from typing import Any

import torch
from torch import Tensor

from tl_transcoders.circuits.nodes import Head
from tl_transcoders.hosts import Norm, dissect, token_embeddings
from tl_transcoders.splice import Spliced
from tl_transcoders.transcoders import CrossLayerTranscoder


def norm_matrix(norm: Norm | None, *, gain: bool = True) -> Tensor:
    """x ↦ gain ⊙ (x − mean x) as a matrix that acts on the right."""
    assert norm is not None
    width = len(norm.gain)
    matrix = torch.eye(width, dtype=torch.float64)
    if norm.centred:
        matrix = matrix - torch.full_like(matrix, 1 / width)
    return matrix * norm.gain.double() if gain else matrix


def encoders(spliced: Spliced, layer: int) -> Tensor:
    """d_model × feature, the norm before them folded in."""
    coder: Any = spliced.transcoders
    found = coder if isinstance(coder, CrossLayerTranscoder) else coder[layer]
    W_enc = (found.W_enc[found.layers.index(layer)] if found is coder else found.W_enc).double()
    norm = dissect(spliced.host).blocks[layer].ln2
    match found.cfg.read:
        case "mlp_in":
            return norm_matrix(norm) @ W_enc
        case "ln2_normalized":
            return norm_matrix(norm, gain=False) @ W_enc
        case _:
            return W_enc


def decoders(spliced: Spliced, layer: int, before: int) -> Tensor:
    """feature × d_model, what the features of a layer write behind the MLPs of layers up to `before`."""
    coder: Any = spliced.transcoders
    blocks = dissect(spliced.host).blocks
    if not isinstance(coder, CrossLayerTranscoder):
        return _posted(coder[layer].W_dec, blocks[layer].ln2_post)
    i = coder.layers.index(layer)
    written = [
        _posted(coder.W_dec[i][n], blocks[at].ln2_post)
        for n, at in enumerate(coder.layers[i:])
        if at < before
    ]
    return torch.stack(written).sum(0)


def ov(spliced: Spliced, head: Head) -> Tensor:
    """N W_V W_O N of a head, d_model × d_model."""
    block = dissect(spliced.host).blocks[head.layer]
    group = head.head // block.attention.heads_per_group
    found = norm_matrix(block.ln1) @ block.attention.W_V[group].double()
    return _posted(found @ block.attention.W_O[head.head].double(), block.ln1_post)


def skip(spliced: Spliced, layer: int) -> Tensor:
    """What a skip connection does, d_model × d_model."""
    coder: Any = spliced.transcoders
    found = coder if isinstance(coder, CrossLayerTranscoder) else coder[layer]
    W_skip = found.W_skip[found.layers.index(layer)] if found is coder else found.W_skip
    block = dissect(spliced.host).blocks[layer]
    return _posted(norm_matrix(block.ln2) @ W_skip.double(), block.ln2_post)


def embeddings(spliced: Spliced) -> Tensor:
    """vocab × d_model."""
    return token_embeddings(spliced.host).double()


def unembeddings(spliced: Spliced) -> Tensor:
    """d_model × vocab, less their mean."""
    anatomy = dissect(spliced.host)
    W_U = anatomy.W_U.double()
    return norm_matrix(anatomy.ln_final) @ (W_U - W_U.mean(1, keepdim=True))


def _posted(written: Tensor, norm: Norm | None) -> Tensor:
    return written.double() if norm is None else written.double() @ norm_matrix(norm)
