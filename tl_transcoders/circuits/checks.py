"""What must hold of splices, prompts and nodes before anything runs."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, Final, assert_never

import torch
from jaxtyping import Bool, Int
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


def tokens_of(spliced: Spliced, tokens: str | Tensor, where: str) -> Int[Tensor, "batch pos"]:
    """Token ids of a text, or of prompts of one length, where the model is; raises ConfigError for anything else."""
    ids = spliced.model.to_tokens(tokens) if isinstance(tokens, str) else tokens
    check_tokens(spliced.host, ids, where)
    return ids.to(spliced.host.device)


def check_pair(
    spliced: Spliced, base: Int[Tensor, "batch pos"], source: Int[Tensor, "batch pos"] | None
) -> None:
    """Raise ShapeError where the prompts of a pair differ in shape, ConfigError where they hold padding."""
    for name, tokens in (("base", base), ("source", source)):
        if tokens is not None:
            check_tokens(spliced.host, tokens, name)
            check_unpadded(spliced, tokens, name)
    if source is not None and base.shape != source.shape:
        raise ShapeError(
            "source",
            got=f"tokens {tuple(source.shape)}",
            expected=f"those of base, {tuple(base.shape)}",
            do="Write prompts of equal length: positions of the two runs are compared one by one.",
        )


def check_unpadded(spliced: Spliced, tokens: Int[Tensor, "batch pos"], where: str) -> None:
    """Raise ConfigError where prompts hold padding after their first token, which may be BOS."""
    padding = getattr(spliced.host.tokenizer, "pad_token_id", None)
    if padding is not None and (tokens[:, 1:] == padding).any():
        raise ConfigError(
            where,
            got="prompts with padding",
            expected="prompts of equal length without padding",
            do="Group prompts by length and trace each group.",
        )


def normal(node: Node, spliced: Spliced, length: int) -> Node:
    """The node with its position counted from the start; raises ConfigError where the model or prompt has no such node."""
    check_exists(node, spliced)
    if node.pos is None:
        return node
    if not -length <= node.pos < length:
        raise refusal(
            node,
            f"position {node.pos} of prompts of {length} positions",
            f"positions from 0 to {length - 1}, or from -{length} to -1",
        )
    return at(node, node.pos % length)


def check_exists(node: Node, spliced: Spliced) -> None:
    """Raise ConfigError where the spliced model has no such node."""
    if not isinstance(node, Node):
        raise ConfigError(
            "node",
            got=repr(node),
            expected="a node or its text",
            do="Write 'a4.h2' or tlt.Head(4, 2).",
        )
    layer: Any = getattr(node, "layer", None)
    n_layers, cfg = spliced.host.n_layers, spliced.host.model.cfg
    if layer is not None and not 0 <= layer < n_layers:
        raise refusal(node, f"layer {layer}", f"a layer from 0 to {n_layers - 1}")
    match node:
        case Head(_, head):
            _check_range(node, head, cfg.n_heads, "head")
        case KeyValue(_, group):
            _check_range(node, group, cfg.n_key_value_heads or cfg.n_heads, "key-value head")
        case Feature(layer, index):
            _check_coded(node, spliced)
            n_features = spliced.hooked[layer].transcoder.cfg.n_features
            _check_range(node, index, n_features, "feature")
        case Error(layer):
            _check_coded(node, spliced)
            if spliced.hooked[layer].error.policy == "drop":
                raise refusal(
                    node,
                    'an error in a splice with error="drop"',
                    "a splice that keeps errors",
                    'Splice with error="keep".',
                )
        case Embed() | Mlp() | Logits():
            pass
        case _:
            assert_never(node)


def check_sender(node: Node) -> None:
    """Raise ConfigError where a node writes nothing by itself."""
    if isinstance(node, KeyValue | Logits) or (isinstance(node, Head) and node.reader):
        raise refusal(
            node, "a sender that only reads", "a node that writes: embed, a4.h2, f3.7, e3, m3"
        )


def check_receiver(node: Node) -> None:
    """Raise ConfigError where a node reads nothing."""
    if isinstance(node, Embed):
        raise refusal(node, "a receiver that only writes", "a node that reads")


def check_whole_mlp(node: Node, spliced: Spliced) -> None:
    """Raise ConfigError for an MLP whose features and error are nodes of their own."""
    if not isinstance(node, Mlp) or node.layer not in spliced.hooked:
        return
    cfg = spliced.hooked[node.layer].transcoder.cfg
    if cfg.read != cfg.write or cfg.write == "mlp_out":
        expected, do = "features and an error", f"Name f{node.layer}.i or e{node.layer}."
        raise refusal(node, "an MLP that is spliced", expected, do)


def check_distinct(nodes: Iterable[Node]) -> None:
    """Raise ConfigError where a node is there twice at a position."""
    for one, other in combinations(nodes, 2):
        everywhere = at(one, None) == at(other, None) and None in (one.pos, other.pos)
        if everywhere or one == other:
            raise refusal(
                other, f"a node beside {write_node(one)}", "every node once", "Leave one out."
            )


def check_reached(
    node: Node, positions: Iterable[int], excluded: Bool[Tensor, "batch pos"] | None
) -> None:
    """Raise ConfigError for a feature or error at excluded positions only: the original MLP stands there."""
    if excluded is None or not isinstance(node, Feature | Error):
        return
    columns = torch.tensor(list(positions), device=excluded.device)
    if excluded[:, columns].all():
        raise refusal(
            node,
            "positions that the splice excludes from the transcoders",
            "at least one position a transcoder computes",
            "Choose other positions, or splice without exclude=.",
        )


def width_of(node: Node, spliced: Spliced) -> int | None:
    """The size of a node's value at a position; None where it is a number."""
    match node:
        case Feature():
            return None
        case Head() | KeyValue():
            return spliced.host.model.cfg.d_head
        case Error(layer):
            return spliced.hooked[layer].transcoder.cfg.d_out
        case Embed() | Mlp() | Logits():
            return spliced.host.d_model
        case _:
            assert_never(node)


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


def check_order(senders: Sequence[Node], receivers: Sequence[Node], model: TracedModel) -> None:
    """Raise ConfigError where a receiver has no sender before it, or a sender no receiver after it."""
    first = min(depth(node, model) for node in senders)
    last = max(depth(node, model) for node in receivers)
    expected = "a receiver after its sender"
    for node in receivers:
        if depth(node, model) <= first:
            raise refusal(node, "a receiver that no sender comes before", expected)
    for node in senders:
        if depth(node, model) >= last:
            raise refusal(node, "a sender that no receiver comes after", expected)


def refusal(node: Node, got: str, expected: str, do: str = "Choose another node.") -> ConfigError:
    """The error of a node that will not do."""
    return ConfigError(write_node(node), got=got, expected=expected, do=do)


def _check_coded(node: Feature | Error, spliced: Spliced) -> None:
    if node.layer not in spliced.hooked:
        got = f"layer {node.layer}, which no transcoder holds"
        raise refusal(node, got, f"one of layers {list(spliced.layers)}")


def _check_range(node: Node, index: int, n: int, what: str) -> None:
    if not 0 <= index < n:
        raise refusal(node, f"{what} {index}", f"a {what} from 0 to {n - 1}")
