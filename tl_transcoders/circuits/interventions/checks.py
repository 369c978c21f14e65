"""What must hold before anything runs: nodes the model has, edits that fit them, prompts of one length."""

from typing import Any, Final, assert_never, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from tl_transcoders.circuits.interventions.edits import Ablate, Add, Edit, Patch, Scale, Set, Tokens
from tl_transcoders.circuits.interventions.steps import Editable, Step
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp, Node, write_node
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.splice import Spliced

EXAMPLE: Final = "{tlt.Feature(5, 1207): tlt.Scale(0.0)}"


def check_spliced(spliced: object) -> None:
    """Raise SpliceError unless it is a splice that is still in its model."""
    if isinstance(spliced, Spliced):
        return spliced.check_installed()
    raise SpliceError(
        "intervene",
        got=type(spliced).__name__,
        expected="a model spliced with transcoders",
        do="Call it on what tlt.splice(model, transcoders) returned.",
    )


def check_edit(spliced: Spliced, node: Any, edit: Any) -> Editable:
    """The node, where the model has it and the edit fits it; raises ConfigError, ShapeError or SpliceError."""
    if not isinstance(edit, get_args(Edit)):
        raise ConfigError(
            "intervene",
            got=f"{edit!r} for {node!r}",
            expected="Set, Add, Scale, Ablate or Patch",
            do=f"Write {EXAMPLE}.",
        )
    found = _editable(spliced, node)
    _check_value(spliced, found, edit)
    return found


def _editable(spliced: Spliced, node: Any) -> Editable:
    match node:
        case Feature(layer, index):
            _check_coder(spliced, node, layer)
            _check_range(node, "feature", index, spliced.hooked[layer].transcoder.cfg.n_features)
        case Head(layer, head, None):
            spliced.host.check_layer(layer)
            _check_range(node, "head", head, spliced.host.model.cfg.n_heads)
        case Error(layer):
            _check_coder(spliced, node, layer)
            _check_error_is_there(spliced, node)
        case Mlp(layer):
            spliced.host.check_layer(layer)
        case _:
            raise ConfigError(
                "intervene",
                got=f"{write_node(node) if isinstance(node, get_args(Node)) else repr(node)}",
                expected="a feature, what a head writes, an error or an MLP",
                do=f"Write {EXAMPLE}; parse_node makes a node of a text.",
            )
    return node


def _check_coder(spliced: Spliced, node: Feature | Error, layer: int) -> None:
    if layer not in spliced.hooked:
        raise ConfigError(
            write_node(node),
            got=f"layer {layer}, where no transcoder stands",
            expected=f"one of the layers {list(spliced.layers)}",
            do="Choose a spliced layer, or splice this one too.",
        )


def _check_range(node: Node, what: str, index: int, n: int) -> None:
    if not 0 <= index < n:
        raise ConfigError(
            write_node(node),
            got=f"{what} {index} of {n}",
            expected=f"a {what} from 0 to {n - 1}",
            do=f"Choose a {what} the layer has.",
        )


def _check_error_is_there(spliced: Spliced, node: Error) -> None:
    if spliced.hooked[node.layer].error.policy == "drop":
        raise SpliceError(
            write_node(node),
            got="a splice that drops the error",
            expected="one that keeps or freezes it",
            do='Splice with error="keep".',
        )


def _check_value(spliced: Spliced, node: Editable, edit: Edit) -> None:
    match edit:
        case Set(value) | Add(value):
            width = _width(spliced, node)
            fitting = [(), ("strength",)] if width is None else [(), (width,), ("strength", width)]
        case Scale(value):
            fitting = [(), ("strength",)]
        case Ablate() | Patch():
            return
        case _:
            assert_never(edit)
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    for wanted in fitting:
        fits = zip(shape, wanted, strict=False)
        if (
            len(shape) == len(wanted)
            and all(w in ("strength", s) for s, w in fits)
            and 0 not in shape
        ):
            return
    raise ShapeError(
        f"{write_node(node)}, {type(edit).__name__}",
        got=f"shape {shape}",
        expected=" or ".join(f"({', '.join(map(str, wanted))})" for wanted in fitting),
        do="Give a number, or a tensor of one of these shapes.",
    )


def _width(spliced: Spliced, node: Editable) -> int | None:
    match node:
        case Feature():
            return None
        case Head():
            return spliced.host.model.cfg.d_head
        case Error(layer):
            return spliced.hooked[layer].transcoder.cfg.d_out
        case Mlp():
            return spliced.host.d_model
        case _:
            assert_never(node)


def tokens_of(spliced: Spliced, tokens: Tokens, where: str) -> Int[Tensor, "batch pos"]:
    """Token ids of a prompt or of prompts of one length, where the model is; raises ShapeError for anything else."""
    ids: Any = spliced.model.to_tokens(tokens) if isinstance(tokens, str) else tokens
    if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point() and ids.numel():
        return ids.to(spliced.host.device)
    raise ShapeError(
        where,
        got=f"a tensor of {ids.dtype}, shape {tuple(ids.shape)}"
        if isinstance(ids, Tensor)
        else type(ids).__name__,
        expected="a text, or token ids [batch pos]",
        do="Use model.to_tokens(text); prompts of several lengths need a call each.",
    )


def check_source(source: Int[Tensor, "batch pos"], tokens: Int[Tensor, "batch pos"]) -> None:
    """Raise ShapeError unless the prompts a patch comes from match those it goes to."""
    if source.shape[1] == tokens.shape[1] and len(source) in (1, len(tokens)):
        return
    raise ShapeError(
        "Patch",
        got=f"source tokens {tuple(source.shape)} for prompts {tuple(tokens.shape)}",
        expected="prompts of the same length, one for all or one for each",
        do="Make the base and source prompts equally long.",
    )


def check_reached(spliced: Spliced, steps: list[Step], tokens: Int[Tensor, "batch pos"]) -> None:
    """Raise ConfigError where a feature or error is edited at excluded positions only: the original MLP stands there."""
    excluded = spliced.excluded(tokens)
    if excluded is None:
        return
    for step in steps:
        columns = torch.tensor(list(step.positions), device=excluded.device)
        if isinstance(step.node, Feature | Error) and excluded[:, columns].all():
            raise ConfigError(
                write_node(step.node),
                got="positions that the splice excludes from the transcoders",
                expected="at least one position a transcoder computes",
                do="Choose other positions, or splice without exclude=.",
            )
