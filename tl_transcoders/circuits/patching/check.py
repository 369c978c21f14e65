"""What must hold of the nodes and prompts of a patch before anything runs."""

from collections.abc import Iterable
from typing import Any, Final, assert_never

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.nodes import (
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
    at,
    write_node,
)
from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.hosts import check_tokens
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.forward import TracedModel
from tl_transcoders.splice.trace.run import Run

_SITE_DEPTH: Final = {
    "resid_pre": 0.0, "z": 0.3, "attn_out": 0.35, "resid_mid": 0.5, "mlp_out": 0.8, "resid_post": 0.9,
}  # fmt: skip
_ATTENTION: Final = 0.25
_MLP: Final = 0.75


def check_spliced(spliced: object) -> None:
    """Raise ConfigError unless this is a spliced model, SpliceError where its transcoders are out again."""
    if not isinstance(spliced, Spliced):
        raise ConfigError(
            "circuits",
            got=f"a {type(spliced).__name__}",
            expected="a spliced model",
            do="Call it inside `with tlt.splice(model, transcoders) as spliced:` with `spliced`.",
        )
    spliced.check_installed()


def check_pair(
    spliced: Spliced, base: Int[Tensor, "batch pos"], source: Int[Tensor, "batch pos"]
) -> None:
    """Raise ShapeError where the prompts of a pair differ in length, ConfigError where they hold padding."""
    for name, tokens in (("base", base), ("source", source)):
        check_tokens(spliced.host, tokens, name)
    if base.shape != source.shape:
        raise ShapeError(
            "source",
            got=f"tokens {tuple(source.shape)}",
            expected=f"those of base, {tuple(base.shape)}",
            do="Write prompts of equal length: positions of the two runs are compared one by one.",
        )
    padding = getattr(spliced.host.tokenizer, "pad_token_id", None)
    if padding is not None and (torch.cat([base, source])[:, 1:] == padding).any():
        raise ConfigError(
            "base and source",
            got="prompts with padding",
            expected="prompts of equal length without padding",
            do="Group prompts by length and trace each group.",
        )


def normal(node: Node, run: Run) -> Node:
    """The node with its position counted from the start; raises ConfigError where the model has no such node."""
    pos, length = node.pos, run.shape[1]
    if pos is not None:
        if not -length <= pos < length:
            raise _refusal(node, f"position {pos} of {length}", "a position of the prompt")
        pos %= length
    _check_exists(node, run.model)
    return at(node, pos)


def depth(node: Node, model: TracedModel) -> float:
    """Where a node stands on the way through the model; a sender's is smaller than its receiver's."""
    match node:
        case Embed():
            return -1.0
        case Head(layer) | KeyValue(layer):
            return layer + _ATTENTION
        case Feature(layer) | Error(layer) if layer in model.saes:
            return layer + _SITE_DEPTH[str(model.saes[layer].site)]
        case Feature(layer) | Error(layer) | Mlp(layer):
            return layer + (_ATTENTION if model.anatomy.blocks[layer].parallel else _MLP)
        case Logits():
            return float("inf")
        case _:
            assert_never(node)


def check_order(senders: Iterable[Node], receivers: Iterable[Node], run: Run) -> None:
    """Raise ConfigError where a receiver has no sender before it, or a sender no receiver after it."""
    sent = {node: depth(node, run.model) for node in senders}
    received = {node: depth(node, run.model) for node in receivers}
    for node, place in received.items():
        if place <= min(sent.values()):
            raise _refusal(
                node, "a receiver that no sender comes before", "a receiver after its sender"
            )
    for node, place in sent.items():
        if place >= max(received.values()):
            raise _refusal(
                node, "a sender that no receiver comes after", "a receiver after its sender"
            )


def check_sender(node: Node) -> None:
    """Raise ConfigError where a node writes nothing by itself."""
    if isinstance(node, KeyValue | Logits) or (isinstance(node, Head) and node.reader):
        raise _refusal(
            node, "a sender that only reads", "a node that writes: embed, a4.h2, f3.7, e3, m3"
        )


def check_receiver(node: Node) -> None:
    """Raise ConfigError where a node reads nothing."""
    if isinstance(node, Embed):
        raise _refusal(node, "a receiver that only writes", "a node that reads")


def _check_exists(node: Node, model: TracedModel) -> None:
    layer: Any = getattr(node, "layer", None)
    if layer is not None and not 0 <= layer < model.n_layers:
        raise _refusal(node, f"layer {layer}", f"a layer from 0 to {model.n_layers - 1}")
    match node:
        case Head(layer, head):
            n = model.anatomy.blocks[layer].attention.n_heads
            _check_range(node, head, n, "head")
        case KeyValue(layer, group):
            n = model.anatomy.blocks[layer].attention.n_groups
            _check_range(node, group, n, "key-value head")
        case Feature(layer, index):
            _check_coded(node, layer, model)
            _check_range(node, index, model.coders[layer].n_features, "feature")
        case Error(layer):
            _check_coded(node, layer, model)
            if model.coders[layer].policy == "drop":
                raise _refusal(
                    node,
                    'an error in a splice with error="drop"',
                    "a splice that keeps errors",
                    'Splice with error="keep".',
                )
        case Mlp(layer) if layer in model.swaps:
            raise _refusal(
                node,
                "an MLP that is spliced",
                "features and an error",
                f"Name f{layer}.i or e{layer}.",
            )
        case _:
            pass


def _check_coded(node: Node, layer: int, model: TracedModel) -> None:
    if layer not in model.coders:
        spliced = sorted(model.coders)
        raise _refusal(
            node, f"layer {layer}, which no transcoder holds", f"one of layers {spliced}"
        )


def _check_range(node: Node, index: int, n: int, what: str) -> None:
    if not 0 <= index < n:
        raise _refusal(node, f"{what} {index}", f"a {what} from 0 to {n - 1}")


def _refusal(node: Node, got: str, expected: str, do: str = "Choose another node.") -> ConfigError:
    return ConfigError(write_node(node), got=got, expected=expected, do=do)
