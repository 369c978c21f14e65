"""Which heads carry something from a source to a target, by their weights alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.graphs import Difference, Token
from tl_transcoders.circuits.nodes import Feature, Head
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.circuits.weights.ends import Source, Target
from tl_transcoders.circuits.weights.stream import Stream, total
from tl_transcoders.circuits.weights.via import pull, reachable, reaches
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced

ROWS: Final = 4096


@final
@dataclass(frozen=True, slots=True, eq=False)
class HeadMap:
    """A number for every head, `value[layer head]`; NaN for heads that do not lie between source and target."""

    value: Float[Tensor, "layer head"]

    def top(self, n: int = 5) -> list[tuple[Head, float]]:
        """The n heads with the largest |value|."""
        check_sizes("HeadMap.top", n=n)
        flat = self.value.flatten()
        order = flat.abs().nan_to_num(nan=-1.0).argsort(descending=True, stable=True)
        found = [(divmod(i, self.value.shape[1]), float(flat[i])) for i in order[:n].tolist()]
        return [(Head(*place), value) for place, value in found if value == value]


@torch.no_grad()
def ov_norms(
    spliced: Spliced, *, source: Source | None = None, target: Target | None = None
) -> HeadMap:
    """How much of what a source writes, or of what a target reads, or of both, a head's OV circuit connects.

        ‖D N W_V W_O N Eᵀ‖ (Frobenius)      D: what sources write, E: what targets read with, either the identity

    Of one feature as the target, it is the norm of what the head moves there from the stream it reads; of one
    feature as the source, of what it writes of it. Norm scales and patterns are left out.

    Source: Dunefsky et al. 2024, section 4.3.

    **Raises:** ConfigError for features or tokens that are not there.

    ```python
    ov_norms(spliced, target=Feature(5, 1207)).top(3)
    ```
    """
    return norms(Stream(spliced), source, target)


def norms(stream: Stream, source: Source | None, target: Target | None) -> HeadMap:
    """The norm of every head's part."""
    values = _nothing(stream)
    for layer in range(stream.n_layers):
        head = Head(layer, 0)
        if reaches(stream, *(end for end in (source, head, target) if end is not None)):
            read, write = _circuits(stream, layer)
            into = _gram(_writers(stream, source, head), read)
            out = _gram(_readers(stream, target), write.transpose(1, 2))
            values[layer] = (into * out).sum((1, 2)).clamp(min=0).sqrt()
    return HeadMap(values)


@torch.no_grad()
def by_head(
    spliced: Spliced, *, source: Feature | Token, target: Feature | Token | Difference
) -> HeadMap:
    """The connection of one source and one target through every head between them, with its sign.

        value[l, h] = w_s · N W_V^{lh} W_O^{lh} N r_t        as connections(..., via=Head(l, h)) gives them one by one

    **Raises:** as `connections`; ConfigError where no head lies between the two.

    ```python
    by_head(spliced, source=Feature(3, 809), target=Feature(5, 1207)).top(3)
    ```
    """
    for end, kinds in ((source, Feature | Token), (target, Feature | Token | Difference)):
        if not isinstance(end, kinds):
            raise ConfigError(
                "by_head",
                got=repr(end),
                expected="one feature or token, or as a target a difference",
                do="Ask ov_norms for all features of a layer, or connections(..., via=Head(layer, head)).",
            )
    stream = Stream(spliced)
    values = _nothing(stream)
    g = stream.read(target).take(slice(0, 1), stream.dtype)
    for layer in range(stream.n_layers):
        if not reaches(stream, source, Head(layer, 0), target):
            continue
        for head in range(stream.block(layer).attention.n_heads):
            steps = (Head(layer, head),)
            parts = reachable(stream, source, steps, target)
            written = total(parts, slice(0, 1), stream.dtype)
            values[layer, head] = (written * pull(stream, steps, g)).sum()
    if values.isnan().all():
        raise ConfigError(
            "by_head",
            got=f"{source} -> {target}",
            expected="a source and a target with attention between them",
            do='Choose others, or connections(..., via="residual").',
        )
    return HeadMap(values)


def _nothing(stream: Stream) -> Float[Tensor, "layer head"]:
    heads = stream.block(0).attention.n_heads
    like = stream.model.anatomy.W_U.new_empty(0, dtype=stream.dtype)
    return like.new_full((stream.n_layers, heads), float("nan"))


def _circuits(
    stream: Stream, layer: int
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_model"]]:
    """N W_V and W_O N of every head."""
    block, dtype = stream.block(layer), stream.dtype
    attention, norm, post = block.attention, block.ln1, block.ln1_post
    W_V = attention.W_V.repeat_interleave(attention.heads_per_group, dim=0).to(dtype)
    read = norm.centre((W_V * norm.gain[:, None].to(dtype)).transpose(1, 2)).transpose(1, 2)
    W_O = attention.W_O.to(dtype)
    return read, W_O if post is None else post.centre(W_O) * post.gain.to(dtype)


def _writers(
    stream: Stream, source: Source | None, head: Head
) -> Iterator[Float[Tensor, "m d_model"]]:
    if source is None:
        yield _identity(stream)
        return
    parts = reachable(stream, source, (), head)
    yield from (total(parts, rows, stream.dtype) for rows in _rows(len(parts[0].rows)))


def _readers(stream: Stream, target: Target | None) -> Iterator[Float[Tensor, "m d_model"]]:
    if target is None:
        yield _identity(stream)
        return
    read = stream.read(target)
    yield from (read.take(rows, stream.dtype) for rows in _rows(len(read.rows)))


def _identity(stream: Stream) -> Float[Tensor, "d_model d_model"]:
    W_U = stream.model.anatomy.W_U
    return torch.eye(len(W_U), dtype=stream.dtype, device=W_U.device)


def _rows(n: int) -> list[slice]:
    return [slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS)]


def _gram(
    blocks: Iterator[Float[Tensor, "m d_model"]], circuit: Float[Tensor, "head d_model d_head"]
) -> Float[Tensor, "head d_head d_head"]:
    """Σ (row circuit)ᵀ (row circuit) over all rows."""
    first = circuit.shape[0], circuit.shape[2]
    found = circuit.new_zeros(first[0], first[1], first[1])
    for block in blocks:
        passed = block @ circuit
        found += passed.transpose(1, 2) @ passed
    return found
