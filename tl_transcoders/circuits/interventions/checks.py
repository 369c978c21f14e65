"""Which nodes can be edited, and what each edit must fit."""

from typing import Any, get_args

from tl_transcoders.circuits.checks import check_exists, width_of
from tl_transcoders.circuits.edits import check_edit
from tl_transcoders.circuits.interventions.steps import Editable
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp, Node, write_node
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced


def check_editable(spliced: Spliced, node: Any, edit: Any) -> Editable:
    """The node, where the model has it and the edit fits it; raises ConfigError or ShapeError."""
    match node:
        case Feature() | Head(reader=None) | Error() | Mlp():
            check_exists(node, spliced)
            check_edit(node, edit, width_of(node, spliced))
            return node
        case _:
            raise ConfigError(
                "intervene",
                got=write_node(node) if isinstance(node, get_args(Node)) else repr(node),
                expected="a feature, what a head writes, an error or an MLP",
                do="Write {tlt.Feature(5, 1207): tlt.Scale(0.0)}; parse_node makes a node of a text.",
            )
