"""Senders meet receivers on the way through the model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.attribution.point import Place
from tl_transcoders.circuits.attribution.receiving import Reading, Receivers
from tl_transcoders.circuits.attribution.sending import Senders
from tl_transcoders.circuits.nodes import READERS, Reader
from tl_transcoders.hosts import Block, Norm
from tl_transcoders.splice.trace.swap import Swap

Lift = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Receivers, and what senders have sent to where they read.

    `dense[n row d]` with a code each, and `sparse[row k d]` with a code at every row.
    """

    layer: int
    part: Reader | None
    receivers: Receivers
    dense: Float[Tensor, "n row d"]
    dense_codes: Int[Tensor, " n"]
    sparse: Float[Tensor, "row k d"]
    sparse_codes: Int[Tensor, "row k"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The direct ways of senders: the residual stream and the skip connections of transcoders.

    A sender's change goes on to first order: through the norm after attention or MLP, past transcoders and heads, and
    no further than an SAE in the stream.
    """

    reading: Reading
    senders: Senders
    kinds: frozenset[str]
    """Which kinds of receivers to meet."""

    def meetings(self) -> Iterator[Meeting]:
        """Every group of receivers, in the order of the model."""
        model = self.reading.point.model
        for layer, block in enumerate(model.anatomy.blocks):
            yield from self._stream(layer, "resid_pre")
            for part in READERS:
                if part in self.kinds:
                    yield self._meeting(layer, self.reading.projection(layer, part), part)
            if block.parallel:
                yield from self._mlp(layer, block)
                yield from self._attention(layer, block)
            else:
                yield from self._attention(layer, block)
                yield from self._stream(layer, "resid_mid")
                yield from self._mlp(layer, block)
            yield from self._stream(layer, "resid_post")
        if "logits" in self.kinds:
            yield self._meeting(model.n_layers, self.reading.logits())

    def _attention(self, layer: int, block: Block) -> Iterator[Meeting]:
        """Heads write, through an SAE where there is one."""
        attention, senders = block.attention, self.senders
        z = senders.of(senders.changes.heads[layer]).transpose(0, 1)
        if not senders.sends("head", layer):
            z = z[:0]
        post = partial(self._post, block.ln1_post, ("attn_raw", layer))
        sent = post(z @ attention.W_O[: len(z)])
        sae = self._sae(layer, "z", "attn_out")
        if sae is None:
            senders.write("head", layer, sent)
            return
        local = sent if sae.site == "attn_out" else _apart(z, attention.n_heads)
        yield from self._local(layer, "head", local)
        senders.write("head", layer, self._left_alone(sent))
        W_O = attention.W_O.flatten(0, 1)
        self._coder_writes(layer, _same if sae.site == "attn_out" else lambda v: post(v @ W_O))

    def _mlp(self, layer: int, block: Block) -> Iterator[Meeting]:
        """The MLP, or its transcoder with skip connection, features and error, reads and writes."""
        post = partial(self._post, block.ln2_post, ("mlp_raw", layer))
        swap = self.reading.point.model.swaps.get(layer)
        if swap is not None:
            yield from self._coder_reads(layer)
            if swap.W_skip is not None:
                self._pass_skip(swap, block, post)
            self._coder_writes(layer, post)
            return
        if "mlp" in self.kinds:
            yield self._meeting(layer, self.reading.mlp(layer))
        change = self.senders.of(self.senders.changes.mlps[layer])[None]
        sent = post(change if self.senders.sends("mlp", layer) else change[:0])
        if self._sae(layer, "mlp_out") is None:
            self.senders.write("mlp", layer, sent)
            return
        yield from self._local(layer, "mlp", sent)
        self.senders.write("mlp", layer, self._left_alone(sent))
        self._coder_writes(layer, _same)

    def _stream(self, layer: int, site: str) -> Iterator[Meeting]:
        """An SAE in the stream: only its features and error go on."""
        if self._sae(layer, site) is None:
            return
        yield from self._coder_reads(layer)
        excluded = self.reading.excluded
        cut = torch.ones_like(self.senders.rows, dtype=torch.bool)
        self.senders.cut(cut if excluded is None else ~self.reading.of(excluded))
        self._coder_writes(layer, _same)

    def _coder_reads(self, layer: int) -> Iterator[Meeting]:
        for receivers in self._coder(layer):
            yield self._meeting(layer, receivers)

    def _coder(self, layer: int) -> Iterator[Receivers]:
        """The features and the error of a layer."""
        if not self.kinds & {"feature", "error"}:
            return
        features = self.reading.features(layer)
        if "feature" in self.kinds:
            yield features
        error = self.reading.error(layer, features) if "error" in self.kinds else None
        if error is not None:
            yield error

    def _local(self, layer: int, kind: str, sent: Tensor) -> Iterator[Meeting]:
        """What an SAE behind attention or MLP reads: what these write, and nothing of the stream."""
        rows = self.senders.rows
        for receivers in self._coder(layer):
            yield Meeting(
                layer=layer,
                part=None,
                receivers=receivers,
                dense=sent,
                dense_codes=self.senders.book.family(kind, layer, len(sent), rows.device),
                sparse=sent.new_zeros(len(rows), 0, sent.shape[-1]),
                sparse_codes=rows.new_zeros(len(rows), 0),
            )

    def _coder_writes(self, layer: int, lift: Lift) -> None:
        """The features and the error of a layer write, and so do earlier features of a cross-layer transcoder."""
        senders, coder = self.senders, self.reading.point.model.coders[layer]
        for source in coder.sources:
            if senders.sends("feature", source):
                index, delta = senders.features[source]
                rows = coder.decoder(source)[index.clamp(min=0)] * delta[..., None]
                senders.write_features(source, _by_row(lift, rows))
        if layer in senders.changes.errors and senders.sends("error", layer):
            senders.write("error", layer, lift(senders.of(senders.changes.errors[layer])[None]))

    def _pass_skip(self, swap: Swap, block: Block, post: Lift) -> None:
        """The skip connection passes on what has been sent so far, but where the MLP was left alone."""
        reading, weight = self.reading, swap.W_skip
        assert weight is not None
        x = reading.of(reading.point.values["mlp_in", swap.layer])

        def carried(at: Tensor, sent: Tensor) -> Tensor:
            return (swap.push(block, at, sent).to(weight.dtype) @ weight).to(sent.dtype)

        dense, sparse = carried(x, self.senders.dense), carried(x[:, None], self.senders.sparse)
        self.senders.add(self._spliced(post(dense)), self._spliced_rows(_by_row(post, sparse)))

    def _meeting(self, layer: int, receivers: Receivers, part: Reader | None = None) -> Meeting:
        senders = self.senders
        return Meeting(
            layer=layer,
            part=part,
            receivers=receivers,
            dense=senders.dense,
            dense_codes=senders.dense_codes,
            sparse=senders.sparse,
            sparse_codes=senders.sparse_codes,
        )

    def _post(self, norm: Norm | None, place: Place, sent: Tensor) -> Tensor:
        """What a change of `[n row d]` becomes in the stream."""
        if norm is None:
            return sent
        return norm.push(self.reading.of(self.reading.point.values[place]), sent)

    def _sae(self, layer: int, *sites: str) -> Swap | None:
        sae = self.reading.point.model.saes.get(layer)
        return sae if sae is not None and sae.site in sites else None

    def _left_alone(self, sent: Tensor) -> Tensor:
        """Zero, but at the rows that no SAE touches."""
        excluded = self.reading.excluded
        return sent * 0 if excluded is None else sent * self.reading.of(excluded)[:, None]

    def _spliced(self, sent: Tensor) -> Tensor:
        excluded = self.reading.excluded
        return sent if excluded is None else sent * ~self.reading.of(excluded)[:, None]

    def _spliced_rows(self, sent: Tensor) -> Tensor:
        return self._spliced(sent.transpose(0, 1)).transpose(0, 1)


def _same(sent: Tensor) -> Tensor:
    return sent


def _by_row(lift: Lift, sent: Tensor) -> Tensor:
    """`lift` for `[row n d]` instead of `[n row d]`."""
    return lift(sent.transpose(0, 1)).transpose(0, 1)


def _apart(z: Float[Tensor, "head row d_head"], n_heads: int) -> Float[Tensor, "head row z"]:
    """What each head alone makes of the z of all heads, one after the other."""
    apart = z.new_zeros(*z.shape[:2], n_heads, z.shape[2])
    every = torch.arange(len(z), device=z.device)
    apart[every, :, every] = z
    return apart.flatten(2)
