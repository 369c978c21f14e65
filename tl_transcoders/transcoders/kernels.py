"""The autograd functions of the sparse route: forward and backward touch active rows only.

All four products are sums over the stored entries e = (row r, feature f, value v):

    gather rows     y[r] += v · W[f]              (decode, and the gradient to the input)
    segment sum     G[f] += v · x[r]              (gradients of W_dec and W_enc)
    row dots        d[e]  = x[r] · W[f]           (gradient of the values)
"""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

PART = 1 << 22
MIN_PART_ROWS = 256
"""How many pre-activations TopK looks at together (16 MB of float32), but at least so many rows."""

GROUP = 4

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def pre_activations(
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
) -> Float[Tensor, "row feature"]:
    """x @ W_enc + b_enc, rounded as `largest_pre_activations` rounds it: by the same product of the same parts."""
    parts = [torch.addmm(b_enc, part, W_enc) for part in x.split(_rows_of_a_part(x, W_enc))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def largest_pre_activations(
    x: Float[Tensor, "row d_in"],
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, " feature"],
    k: int,
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of x @ W_enc + b_enc in every row, some rows at a time in one buffer, for cache and memory."""
    rows = _rows_of_a_part(x, W_enc)
    if len(x) <= rows:
        return largest(torch.addmm(b_enc, x, W_enc), k)
    pre = x.new_empty(rows, W_enc.shape[1])
    values = x.new_empty(len(x), k)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        out = pre[: len(x[part])]
        torch.addmm(b_enc, x[part], W_enc, out=out)
        values[part], indices[part] = largest(out, k)
    return values, indices


def largest(
    values: Float[Tensor, "row n"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """`values.topk(k)` in any order: the k largest lie in the k groups with the largest maxima.

    Groups are of GROUP entries far apart, so that their maxima are a vectorised reduction; what is left for
    torch's topk, which takes 3 ns an entry, are a few hundred candidates.
    """
    n = values.shape[1] // GROUP
    if values.shape[1] % GROUP or n < GROUP * k or values.device.type != "cpu":
        return torch.topk(values, k, sorted=False)
    groups = largest(values.reshape(-1, GROUP, n).amax(1), k)[1]
    candidates = torch.cat([groups + n * member for member in range(GROUP)], dim=1)
    found, places = values.gather(1, candidates).topk(k, sorted=False)
    return found, candidates.gather(1, places)


def gather_rows(
    values: Float[Tensor, " active"],
    indices: Int[Tensor, " active"],
    offsets: Int[Tensor, " row"],
    weight: Float[Tensor, "feature d"],
) -> Float[Tensor, "row d"]:
    """y[r] = Σ_e v_e · W[f_e] over the entries of row r."""
    if not len(values):
        return weight.new_zeros(len(offsets), weight.shape[1])
    indices, weight = used_rows(indices, weight)
    return embedding_bag(indices, weight, offsets, per_sample_weights=values, mode="sum")


def used_rows(
    indices: Int[Tensor, " active"], weight: Float[Tensor, "feature d"]
) -> tuple[Int[Tensor, " active"], Float[Tensor, "row d"]]:
    """The same entries over the rows of W they use, where W does not lie row after row in memory.

    embedding_bag copies such a W whole, which for one target of a published cross-layer decoder means
    reading gigabytes for a few rows.
    """
    if weight.is_contiguous():
        return indices, weight
    used, places = indices.unique(return_inverse=True)
    return places, weight.index_select(0, used)


def segment_sum(
    values: Float[Tensor, " active"],
    indices: Int[Tensor, " active"],
    rows: Int[Tensor, " active"],
    x: Float[Tensor, "row d"],
    n_features: int,
) -> Float[Tensor, "feature d"]:
    """G[f] = Σ_e v_e · x[r_e] over the entries of feature f: a gather from x once the entries are sorted by feature."""
    order, starts = by_feature(indices, n_features)
    return gather_rows(values[order], rows[order], starts, x)


def by_feature(
    indices: Int[Tensor, " active"], n_features: int
) -> tuple[Int[Tensor, " active"], Int[Tensor, " feature"]]:
    """The stored entries ordered by feature, and where each feature's begin in that order."""
    if indices.device.type == "cpu" and n_features <= 1 << 16:
        # numpy sorts 16-bit keys by radix, as fast on one thread as torch on all, and without waiting for
        # the others some 30 times.
        keys = indices.numpy().astype(np.uint16)
        order = torch.from_numpy(keys.argsort(kind="stable"))
        per_feature = torch.from_numpy(np.bincount(keys, minlength=n_features))
    else:
        order = indices.to(torch.int32).argsort(stable=True)
        per_feature = torch.bincount(indices, minlength=n_features)
    return order, per_feature.cumsum(0) - per_feature


def row_dots(
    x: Float[Tensor, "row d"],
    indices: Int[Tensor, " active"],
    offsets: Int[Tensor, " row"],
    weight: Float[Tensor, "feature d"],
) -> Float[Tensor, " active"]:
    """d_e = x[r_e] · W[f_e] for every stored entry, without forming x @ Wᵀ."""
    if _has_sampled_matmul(x):
        return _sampled_matmul(x, indices, offsets, weight)
    with torch.enable_grad():
        probe = x.new_zeros(len(indices), requires_grad=True)
        out = embedding_bag(indices, weight, offsets, per_sample_weights=probe, mode="sum")
        return torch.autograd.grad(out, probe, x)[0]


def count_set(values: Float[Tensor, "*batch"]) -> int:
    """How many entries are not made of zero bits alone (−0 counts)."""
    bits = values.view(_INTEGERS[values.element_size()])
    # numpy's count is vectorised; torch's takes twenty times as long on a CPU.
    return int(np.count_nonzero(bits.numpy()) if bits.is_cpu else torch.count_nonzero(bits))


class GatherRows(Function):
    """y[r] = Σ_e v_e · W[f_e], with sparse gradients to the values and to W."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, offsets: Tensor, weight: Tensor
    ) -> Tensor:
        ctx.save_for_backward(values, indices, offsets, weight)
        return gather_rows(values, indices, offsets, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        values, indices, offsets, weight = ctx.saved_tensors
        grad = grad.contiguous()
        to_values = to_weight = None
        if ctx.needs_input_grad[0]:
            places, used = used_rows(indices, weight)
            to_values = row_dots(grad, places, offsets, used)
        if ctx.needs_input_grad[3]:
            rows = _rows(offsets, len(indices))
            to_weight = segment_sum(values, indices, rows, grad, len(weight))
        return to_values, None, None, to_weight


class TopKEncode(Function):
    """The k largest of x @ W_enc + b_enc per row, ReLU'd: values, their indices and, if asked for, the dense rows.

    The pre-activations are never kept: the dense rows are written over them, and the backward pass
    reads only the columns of W_enc that were active.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, want_dense: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        if want_dense:
            pre = pre_activations(x, W_enc, b_enc)
            values, indices = largest(pre, k)
            dense = pre.zero_().scatter_(-1, indices, values.relu_())
        else:
            values, indices = largest_pre_activations(x, W_enc, b_enc, k)
            values, dense = values.relu_(), values.new_empty(0)
        ctx.save_for_backward(x, W_enc, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices, dense

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_values: Tensor | None, _: None, grad_dense: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, W_enc, values, indices = ctx.saved_tensors
        grad = torch.zeros_like(values) if grad_values is None else grad_values
        if grad_dense is not None and grad_dense.numel():
            grad = grad + grad_dense.gather(-1, indices)
        grad = (grad * (values > 0)).reshape(-1)
        k, flat = indices.shape[-1], indices.reshape(-1)
        offsets = torch.arange(0, len(flat), k, device=flat.device)
        to_x = to_W = to_b = None
        if ctx.needs_input_grad[0]:
            to_x = gather_rows(grad, flat, offsets, W_enc.T)
        if ctx.needs_input_grad[1]:
            rows = torch.arange(len(flat), device=flat.device) // k
            to_W = segment_sum(grad, flat, rows, x.contiguous(), W_enc.shape[1]).T
        if ctx.needs_input_grad[2]:
            to_b = grad.new_zeros(W_enc.shape[1]).index_add_(0, flat, grad)
        return to_x, to_W, to_b, None, None


def _rows_of_a_part(x: Tensor, W_enc: Tensor) -> int:
    n_parts = -(-len(x) * W_enc.shape[1] // PART)
    return max(MIN_PART_ROWS, -(-len(x) // max(1, n_parts)))


def _rows(offsets: Tensor, n_active: int) -> Tensor:
    ends = torch.cat([offsets[1:], offsets.new_tensor([n_active])])
    rows = torch.arange(len(offsets), device=offsets.device)
    return rows.repeat_interleave(ends - offsets, output_size=n_active)


def _has_sampled_matmul(x: Tensor) -> bool:
    if x.dtype not in (torch.float32, torch.float64):
        return False
    return x.is_cuda or (x.device.type == "cpu" and torch.backends.mkl.is_available())


def _sampled_matmul(x: Tensor, indices: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    ends = torch.cat([offsets, offsets.new_tensor([len(indices)])])
    with warnings.catch_warnings():
        # torch announces once per process that CSR tensors are in beta; our test of equality covers their use here.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            ends,
            indices,
            x.new_zeros(len(indices)),
            size=(len(x), len(weight)),
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, x, weight.T).values()
