"""Graphs that circuit-tracer saved, read without running anything in the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_transcoders.circuits.graphs.graph_file import FLOATS
from tl_transcoders.circuits.graphs.nodes import LARGEST, NodeTable, Token
from tl_transcoders.circuits.nodes import Embed, Error
from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.torch_file import read_torch
from tl_transcoders.hub.unpickle import Record

TENSORS: Final = (
    "adjacency_matrix",
    "active_features",
    "selected_features",
    "activation_values",
    "logit_probabilities",
    "input_tokens",
)


def read_peer_graph(path: Path, words: Sequence[str] | None) -> dict[str, Any]:
    """The fields of a Graph.

    **Raises:** TranscoderFormatError for a file that is cut short, holds anything but such a graph, or more than data.
    """
    peer = PeerGraph.of(path, _saved(path))
    if words is not None and len(words) != len(peer.tokens):
        raise _wrong(path, f"{len(words)} words", f"one for each of {len(peer.tokens)} tokens")
    nodes, features = peer.nodes(), peer.features
    n = len(nodes)
    target, source = peer.matrix.nonzero(as_tuple=True)
    if not nodes.goes_up(source, target).all():
        raise _wrong(path, "edges that do not go up", "edges to later layers alone")
    effect = peer.matrix[target, source]
    total = effect.new_zeros(n).index_add_(0, target, effect)
    activation = effect.new_zeros(n)
    activation[: len(features)] = peer.activation.to(effect.dtype)
    weight = torch.zeros(n, dtype=torch.float64)
    weight[n - len(peer.outcomes) :] = peer.probability.double()
    feature, outcome = nodes.is_a("feature"), nodes.is_a("token")
    value = torch.where(feature, activation, torch.where(outcome, total, float("nan")))
    return {
        "tokens": peer.tokens,
        "words": tuple(map(str, peer.tokens.tolist()) if words is None else words),
        "vocabulary": peer.outcomes,
        "n_layers": peer.n_layers,
        "errors": "keep",
        "nodes": nodes,
        "activation": activation,
        "weight": weight,
        "value": value,
        "left_out": torch.where(feature, activation - total, 0.0),
        "target": target.int(),
        "source": source.int(),
        "effect": effect,
        "gap": float("nan"),
        "no_run": "file",
    }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PeerGraph:
    """What such a file says: features as `layer pos index`, then errors, tokens and logits, targets in rows."""

    n_layers: int
    tokens: Int[Tensor, " pos"]
    features: Int[Tensor, "feature 3"]
    activation: Float[Tensor, " feature"]
    outcomes: dict[int, str]
    probability: Float[Tensor, " outcome"]
    matrix: Float[Tensor, "node node"]

    @classmethod
    def of(cls, path: Path, saved: Mapping[str, Any]) -> "PeerGraph":
        """The parts, checked against one another."""
        cfg = saved.get("cfg")
        n_layers = cfg.state.get("n_layers") if isinstance(cfg, Record) else None
        if type(n_layers) is not int or n_layers < 1:
            raise _wrong(path, "no number of layers", "a cfg with n_layers")
        outcomes = _outcomes(path, saved.get("logit_targets"))
        tensors = {name: saved[name] for name in TENSORS}
        active, selected = tensors["active_features"], tensors["selected_features"]
        tokens, matrix = tensors["input_tokens"], tensors["adjacency_matrix"]
        n = len(selected) + (n_layers + 1) * len(tokens) + len(outcomes)
        shapes = {
            "adjacency_matrix": (n, n),
            "active_features": (len(active), 3),
            "selected_features": (len(selected),),
            "activation_values": (len(active),),
            "logit_probabilities": (len(outcomes),),
            "input_tokens": (len(tokens),),
        }
        for name, shape in shapes.items():
            _check_tensor(path, name, tensors[name], shape)
        if not len(tokens):
            raise _wrong(path, "no token", "the tokens of a prompt")
        _check_range(path, "selected_features", selected, len(active))
        if len(selected.unique()) < len(selected):
            raise _wrong(path, "selected_features that repeat", "every feature once")
        _check_range(path, "layers of features", active[:, 0], n_layers)
        _check_range(path, "positions of features", active[:, 1], len(tokens))
        _check_range(path, "indices of features", active[:, 2], LARGEST)
        _check_range(path, "input_tokens", tokens, LARGEST)
        probability = tensors["logit_probabilities"]
        if not ((probability >= 0) & (probability <= 1)).all():
            raise _wrong(path, "logit_probabilities beyond 0 and 1", "probabilities")
        return cls(
            n_layers=n_layers,
            tokens=tokens.long(),
            features=active[selected].long(),
            activation=tensors["activation_values"][selected].float(),
            outcomes=outcomes,
            probability=tensors["logit_probabilities"].float(),
            matrix=matrix.float(),
        )

    def nodes(self) -> NodeTable:
        """The nodes in the order of the matrix."""
        n_pos = len(self.tokens)
        layer, pos, index = self.features.unbind(1)
        kinds = [NodeTable.features(0, pos, index).rows]
        kinds[0][:, 1] = layer
        rest = [
            *(Error(layer, pos) for layer in range(self.n_layers) for pos in range(n_pos)),
            *map(Embed, range(n_pos)),
            *(Token(token, n_pos - 1) for token in self.outcomes),
        ]
        return NodeTable.joined([NodeTable(kinds[0]), NodeTable.of(rest, self.n_layers)])


def _saved(path: Path) -> Mapping[str, Any]:
    found = read_torch(path)
    absent = TENSORS
    if isinstance(found, dict):
        absent = tuple(name for name in TENSORS if not _is_array(found.get(name)))
    if absent:
        raise _wrong(path, f"no tensor {absent[0]}", f"{', '.join(TENSORS)}")
    assert isinstance(found, dict)
    return found


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _outcomes(path: Path, targets: Any) -> dict[int, str]:
    """The tokens explained and their text; older files hold their ids alone."""
    pairs: list[Any] = targets if isinstance(targets, list) else []
    if isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point():
        pairs = [(str(i), i) for i in targets.tolist()]
    found = {i: text for text, i in (p for p in pairs if _is_pair(p))}
    if not found or len(found) != len(pairs):
        raise _wrong(path, "logit_targets of another shape", "pairs of a text and a token id")
    return found


def _is_pair(pair: Any) -> bool:
    match pair:
        case (str(), int(token)):
            return type(token) is int and 0 <= token < LARGEST
        case _:
            return False


def _check_tensor(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    floats = name in ("adjacency_matrix", "activation_values", "logit_probabilities")
    dtypes = FLOATS if floats else (torch.int64, torch.int32)
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        got = f"{name} {tuple(tensor.shape)} of {tensor.dtype}"
        raise _wrong(path, got, f"{shape} of {'floats' if floats else 'integers'}")
    if not tensor.isfinite().all():
        raise _wrong(path, f"{name} with numbers that are not finite", "finite numbers")


def _check_range(path: Path, what: str, values: Tensor, n: int) -> None:
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < n:
        raise _wrong(path, f"{what} that are not there", f"0 to {n - 1}")


def _wrong(path: Path, got: str, expected: str) -> TranscoderFormatError:
    return TranscoderFormatError(
        f"{path.name}, a graph of circuit-tracer",
        got=got,
        expected=expected,
        do="Save it again with Graph.to_pt of circuit-tracer 0.5.0.",
    )
