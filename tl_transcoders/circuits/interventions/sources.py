"""What nodes are replaced by where an edit takes it from other prompts."""

from collections.abc import Callable, Mapping

from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.checks import tokens_of
from tl_transcoders.circuits.edits import Edit, Mean, Patch
from tl_transcoders.circuits.interventions.steps import Editable
from tl_transcoders.circuits.nodes import Error, Feature
from tl_transcoders.circuits.values import averaged, by_donor, check_fits
from tl_transcoders.splice import Spliced

Read = Callable[[list[Editable], Int[Tensor, "batch pos"]], Mapping[Editable, Tensor]]
"""What nodes are in a run on some prompts."""


def read_sources(
    spliced: Spliced,
    edits: Mapping[Editable, Edit],
    read: Read,
    tokens: Int[Tensor, "batch pos"] | None,
) -> dict[Editable, Float[Tensor, "prompt given *d"]]:
    """What every patched or averaged node becomes; other prompts run once. `tokens` are those edited, where known."""
    found: dict[Editable, Tensor] = {}
    for edit, nodes in by_donor(edits):
        found |= _read_group(spliced, edit, nodes, read, tokens)
    return found


def _read_group(
    spliced: Spliced,
    edit: Patch | Mean,
    nodes: list[Editable],
    read: Read,
    tokens: Int[Tensor, "batch pos"] | None,
) -> Mapping[Editable, Tensor]:
    given = edit.source if isinstance(edit, Patch) else edit.tokens
    source = tokens_of(spliced, given, type(edit).__name__)
    if tokens is not None:
        check_fits(edit, source, tokens)
    if isinstance(edit, Patch):
        return read(nodes, source)
    return averaged(
        spliced,
        edit,
        lambda rows: read(nodes, rows),
        lambda node: isinstance(node, Feature | Error),
    )
