"""Path patching by the definition, one run of the host after another: slow, and for comparison with what is fast.

1. A run on the base prompts in which senders have their values from the source run, and every other head (and, but
   for `"wang"`, every MLP, feature and error) is held at its base value. What a receiver would become is read off it.
2. A run on the base prompts in which receivers have those values and everything after them is computed.

    effect = metric(run 2) − metric(base)
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, assert_never, final

import torch
from jaxtyping import Float, Int
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
from tl_transcoders.circuits.reference_runs import SCALES, Edits, Part, Place, Put, Runner
from tl_transcoders.errors import ConfigError
from tl_transcoders.splice import Spliced
from tl_transcoders.transcoders import CrossLayerTranscoder

Preset = Literal["edge", "wang", "linear"]
Errors = Literal["freeze", "live", "zero"]
Metric = Callable[[Float[Tensor, "batch pos vocab"]], Float[Tensor, " batch"]]
ATTENTION: Final = 0.25
MLP: Final = 0.75


@torch.no_grad()
def live_path_patch(
    spliced: Spliced,
    base: Int[Tensor, "batch pos"],
    source: Int[Tensor, "batch pos"] | None,
    senders: Sequence[Node] | Mapping[Node, Put],
    receivers: Sequence[Node],
    metric: Metric,
    *,
    freeze: Preset = "edge",
    errors: Errors | None = None,
) -> Float[Tensor, " batch"]:
    """What receivers do to the metric when only senders, and what may respond between them, differ from the base run.

    **Arguments:**

    - `senders`: embed, heads, features, errors, MLPs; or functions from the base value of each, `[batch pos]` or
      `[batch pos d]` at all positions, to the one it is to have. `receivers`: q, k, v of a head or key-value group, features,
      errors, MLPs, logits.
    - `freeze`: `"edge"` holds everything between them at its base value, `"wang"` lets MLPs, features and errors
      respond, `"linear"` holds the receiver's norm scale, and the gate of a feature, as well.
    - `errors`: what errors are where something is computed again: as in the base run, as mlp(x) − transcoder(x) of
      the new x, or zero. By default live under `"wang"`, else frozen.

    Under `"linear"` a whole MLP or an error responds exactly, to an input with a frozen norm scale. Skip connections pass on what changes before them, also where the rest of a transcoder is held.

    Source: Wang et al. 2022, Interpretability in the Wild, appendix B; Hanna et al. 2023, How does GPT-2 compute
    greater-than?

    **Raises:** ConfigError for SAEs, an error of a splice that drops it, or a node that cannot play its part.

    ```python
    live_path_patch(spliced, base, source, [Feature(0, 3)], [Head(1, 0, "q")], metric, freeze="wang")
    ```
    """
    runner = Runner(spliced)
    length = base.shape[1]
    given, taken = ([_normal(node, length) for node in nodes] for nodes in (senders, receivers))
    every = runner.everything()
    base_logits, ours = runner.run(base, {}, every)
    theirs = ours if source is None else runner.run(source, {}, every)[1]
    if isinstance(senders, Mapping):
        theirs = _changed(ours, dict(zip(given, senders.values(), strict=True)))
    policy: Errors = errors or ("live" if freeze == "wang" else "freeze")
    patch = PathPatch(runner, base, ours, theirs, freeze, policy)
    logits = patch.downstream(taken, {node: patch.response(node, given) for node in taken})
    return metric(logits) - metric(base_logits)


@final
@dataclass(frozen=True, slots=True)
class PathPatch:
    """The two steps on one pair of prompts, with the base and source values of every place."""

    runner: Runner
    base: Int[Tensor, "batch pos"]
    ours: Mapping[Place, Tensor]
    theirs: Mapping[Place, Tensor]
    freeze: Preset
    errors: Errors

    def response(self, receiver: Node, senders: Sequence[Node]) -> Tensor:
        """What a receiver becomes at all positions: step 1. For logits, the last residual stream."""
        place = place_of(receiver)
        edits = self._frozen(receiver, senders)
        for sender in senders:
            sent = _sending_place(sender)
            edits[sent].append(put_part(sender, self.theirs[sent]))
        if self.freeze != "wang":
            self._let_skips_pass(edits, thawed=_thawed(receiver))
        if place[0] == "features" and self.freeze == "linear":
            return self._gated(place, edits)
        return self.runner.run(self.base, edits, [place])[1][place]

    def downstream(
        self, receivers: Sequence[Node], responses: Mapping[Node, Tensor]
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits with receivers at these values and everything after them computed: step 2."""
        edits = self._errors(self.errors, after=min(map(depth_of, receivers)))
        private: dict[Head, list[Node]] = defaultdict(list)
        for receiver in sorted(receivers, key=depth_of):
            match receiver:
                case Logits():
                    change = _only(receiver, responses[receiver] - self.ours["final", 0])
                    edits["final", 0].append(lambda value, change=change: value + change)
                    if self.freeze == "linear":
                        scale: Place = ("ln_final.hook_scale", 0)
                        edits[scale].append(_always(self.ours[scale]))
                case Head(layer, head, "k" | "v") if self._heads_per_group > 1:
                    private[Head(layer, head)].append(receiver)
                case _:
                    edits[place_of(receiver)].append(put_part(receiver, responses[receiver]))
        for writer in sorted(private, key=depth_of):
            self._let_one_head_see(writer, private[writer], responses, edits)
        return self.runner.run(self.base, edits, [])[0]

    def _let_one_head_see(
        self,
        writer: Head,
        readers: Sequence[Node],
        responses: Mapping[Node, Tensor],
        edits: defaultdict[Place, list[Put]],
    ) -> None:
        """No hook reaches one query head's copy of the keys: let its whole group have them, and keep that head's z."""
        own = edits.copy()
        for reader in readers:
            place = place_of(reader)
            group = KeyValue(writer.layer, writer.head // self._heads_per_group, "k", reader.pos)
            grouped = responses[reader][:, :, [group.group]].expand_as(responses[reader])
            own[place] = [*own.get(place, ()), put_part(group, grouped)]
        z = ("z", writer.layer)
        edits[z].append(put_part(writer, self.runner.run(self.base, own, [z])[1][z]))

    def _frozen(self, receiver: Node, senders: Sequence[Node]) -> defaultdict[Place, list[Put]]:
        """Heads at their base values, and unless MLPs may respond those too, but for the receiver's own."""
        thawed = _thawed(receiver)
        wang = self.freeze == "wang"
        edits = self._errors(self.errors if wang else "freeze", after=min(map(depth_of, senders)))
        held: set[Part] = {"z"} if wang else {"z", "mlp_in", "read"}
        if self.freeze == "linear":
            held |= set(SCALES)
        for place, value in self.ours.items():
            own = place[0] in ("mlp_in", "read") and place[1] == thawed
            own |= place[0] == "mlp_in" and self._skip(place[1]) is not None
            if place[0] in held and not own:
                edits[place].append(_always(value))
        return edits

    def _let_skips_pass(self, edits: defaultdict[Place, list[Put]], *, thawed: int | None) -> None:
        """A skip connection is no node: where features are held, it still passes on what changes before it."""
        for layer in self.runner.spliced.layers:
            skip = self._skip(layer)
            if skip is not None and layer != thawed:
                read, error = _passing(self.ours["read", layer], skip)
                edits["read", layer].append(read)
                edits["read", layer] = edits["read", layer][::-1]
                edits["error", layer].append(error)

    def _skip(self, layer: int) -> Tensor | None:
        if layer not in self.runner.spliced.hooked:
            return None
        transcoder = self.runner.spliced.hooked[layer].transcoder
        if isinstance(transcoder, CrossLayerTranscoder):
            skips = transcoder.W_skip
            return None if skips is None else skips[transcoder.layers.index(layer)]
        return transcoder.W_skip

    def _errors(self, policy: Errors, *, after: float) -> defaultdict[Place, list[Put]]:
        edits: defaultdict[Place, list[Put]] = defaultdict(list)
        if policy != "live":
            for place, value in self.ours.items():
                if place[0] == "error" and place[1] + MLP > after:
                    edits[place].append(_always(value * 0 if policy == "zero" else value))
        return edits

    def _gated(self, place: Place, edits: Edits) -> Tensor:
        """act + gate · (changed pre − pre): the base gate, and a pre-activation under the base norm scale."""
        pre: Place = ("pre", place[1])
        changed = self.runner.run(self.base, edits, [pre])[1][pre]
        gate = self.ours[place] != 0
        return self.ours[place] + gate * (changed - self.ours[pre])

    @property
    def _heads_per_group(self) -> int:
        return self.ours["z", 0].shape[2] // self.ours["k", 0].shape[2]


def _normal(node: Node, length: int) -> Node:
    return node if node.pos is None else at(node, node.pos % length)


def depth_of(node: Node) -> float:
    """Where a node stands on the way through the model."""
    match node:
        case Embed():
            return -1.0
        case Head(layer) | KeyValue(layer):
            return layer + ATTENTION
        case Feature(layer) | Error(layer) | Mlp(layer):
            return layer + MLP
        case Logits():
            return float("inf")
        case _:
            assert_never(node)


def place_of(node: Node) -> Place:
    """Where what a receiver becomes is read off."""
    match node:
        case Head(layer, _, reader) | KeyValue(layer, _, reader) if reader is not None:
            return reader, layer
        case Feature(layer):
            return "features", layer
        case Error(layer):
            return "error", layer
        case Mlp(layer):
            return "mlp_out", layer
        case Logits():
            return "final", 0
        case _:
            raise _refusal(
                node, "a receiver that reads nothing", "a4.h2<k>, f3.7, e3, m3 or logits"
            )


def _sending_place(node: Node) -> Place:
    match node:
        case Embed():
            return "embed", 0
        case Head(layer, _, None):
            return "z", layer
        case Feature() | Error() | Mlp():
            return place_of(node)
        case _:
            raise _refusal(node, "a sender that only reads", "embed, a4.h2, f3.7, e3 or m3")


def put_part(node: Node, values: Tensor) -> Put:
    """A copy in which a node has its part of `values`, at its position or at all."""

    def put(value: Tensor) -> Tensor:
        value = value.clone()
        rows = slice(None) if node.pos is None else slice(node.pos, node.pos + 1)
        where = (slice(None), rows, *_within(node))
        value[where] = values[where]
        return value

    return put


def _changed(ours: Mapping[Place, Tensor], changes: Mapping[Node, Put]) -> dict[Place, Tensor]:
    """The base values, but what each node becomes of its own."""
    theirs = dict(ours)
    for node, change in changes.items():
        place = _sending_place(node)
        where = (slice(None), slice(None), *_within(node))
        theirs[place] = theirs[place].clone()
        theirs[place][where] = change(ours[place][where])
    return theirs


def _within(node: Node) -> tuple[int, ...]:
    match node:
        case Head(_, index) | KeyValue(_, index) | Feature(_, index):
            return (index,)
        case _:
            return ()


def _thawed(receiver: Node) -> int | None:
    """The layer whose MLP must answer for this receiver to have a value."""
    match receiver:
        case Feature(layer) | Error(layer) | Mlp(layer):
            return layer
        case _:
            return None


def _passing(base: Tensor, skip: Tensor) -> tuple[Put, Put]:
    """For what a held transcoder reads and for the error it adds: the skip of the change between them."""
    seen: list[Tensor] = []

    def read(value: Tensor) -> Tensor:
        seen[:] = [value - base]
        return value

    return read, lambda error: error + seen.pop() @ skip


def _always(values: Tensor) -> Put:
    return lambda _: values


def _only(node: Node, values: Tensor) -> Tensor:
    """`values` at the node's position, zero elsewhere."""
    return put_part(node, values)(torch.zeros_like(values))


def _refusal(node: Node, got: str, expected: str) -> ConfigError:
    return ConfigError(write_node(node), got=got, expected=expected, do="Choose another node.")
