"""All nodes and edges of a spliced model."""

from tl_transcoders.circuits.checks import depth
from tl_transcoders.circuits.nodes import (
    Edge,
    Embed,
    Error,
    Feature,
    Head,
    KeyValue,
    Logits,
    Mlp,
    Node,
)
from tl_transcoders.splice.trace.run import Run


def all_nodes(run: Run) -> list[Node]:
    """Everything that writes."""
    model, found = run.model, list[Node]([Embed()])
    for layer, block in enumerate(model.anatomy.blocks):
        found += [Head(layer, head) for head in range(block.attention.n_heads)]
        if layer not in model.swaps:
            found.append(Mlp(layer))
        if layer in model.coders:
            found += [Feature(layer, i) for i in range(model.coders[layer].n_features)]
            found += [Error(layer)] if model.coders[layer].policy != "drop" else []
    return found


def all_edges(run: Run) -> list[Edge]:
    """From everything that writes to everything that reads after it, keys and values by group."""
    model, receivers = run.model, list[Node]([Logits()])
    for node in all_nodes(run):
        match node:
            case Head(layer, head):
                receivers.append(Head(layer, head, "q"))
            case Embed():
                continue
            case _:
                receivers.append(node)
    for layer, block in enumerate(model.anatomy.blocks):
        for group in range(block.attention.n_groups):
            receivers += [KeyValue(layer, group, "k"), KeyValue(layer, group, "v")]
    return [
        (sender, receiver)
        for sender in all_nodes(run)
        for receiver in receivers
        if depth(sender, model) < depth(receiver, model)
    ]
