"""The residual stream of a run as a linear system: what passes from layer to layer while everything else is frozen."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from tl_transcoders.circuits.attention.heads import Heads
from tl_transcoders.circuits.graphs.frame import Frame
from tl_transcoders.circuits.graphs.graph import Graph
from tl_transcoders.circuits.nodes import Head
from tl_transcoders.errors import ConfigError


@final
@dataclass(frozen=True, slots=True)
class Passage:
    """Residual stream, heads and skip connections of a run; patterns, scales, features, errors and MLPs are frozen.

        mid = pre + Σ_h head_h(pre)        post = mid + skip(mid)

    A block whose MLP runs beside its attention has `post = mid + skip(pre)`.
    """

    frame: Frame
    heads: tuple[Heads, ...]
    cut: tuple[Head, ...]
    """Heads that are nodes of a graph, which pass nothing on."""

    @classmethod
    def of(cls, frame: Frame, cut: Iterable[Head] = ()) -> "Passage":
        """That of a run."""
        cut = tuple(cut)
        heads = tuple(Heads.of(frame, layer, cut) for layer in range(frame.n_layers))
        return cls(frame, heads, cut)

    @classmethod
    def of_graph(cls, graph: Graph, what: str) -> "Passage":
        """That of the run a graph was made from, its head nodes cut; raises ConfigError for one without its run."""
        if not isinstance(graph, Graph):
            raise ConfigError(
                what,
                got=f"a {type(graph).__name__}",
                expected="the Graph of one prompt",
                do="Ask each of the graphs that were merged or grouped.",
            )
        run = graph.run_for(what)
        return cls.of(Frame.of(run), graph.cut)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.frame.n_layers

    def parallel(self, layer: int) -> bool:
        """Whether the MLP of a layer reads what its attention reads."""
        return self.frame.block(layer).parallel

    def onward(
        self,
        layer: int,
        pre: Float[Tensor, "n pos d_model"],
        mid: Float[Tensor, "n pos d_model"],
    ) -> Float[Tensor, "n pos d_model"]:
        """The stream behind the MLP of a layer, what is written there apart."""
        passed = self.skip(layer, pre if self.parallel(layer) else mid)
        return mid if passed is None else mid + passed

    def skip(
        self, layer: int, change: Float[Tensor, "n pos d_model"]
    ) -> Float[Tensor, "n pos d_model"] | None:
        """What a skip connection makes of a change of what its MLP reads; None where there is none."""
        frame, swap = self.frame, self.frame.swap(layer)
        if swap is None or swap.W_skip is None:
            return None
        block = frame.block(layer)
        read = swap.push(block, frame.value("mlp_in", layer), change)
        passed = (read @ swap.W_skip.to(read.dtype)) * frame.spliced[:, None]
        post = block.ln2_post
        return passed if post is None else post.push(frame.value("mlp_raw", layer), passed)

    def skip_back(
        self, layer: int, g: Float[Tensor, "n pos d_model"]
    ) -> Float[Tensor, "n pos d_model"] | None:
        """The gradient of what the MLP of a layer reads from that of the stream behind it, through a skip connection."""
        frame, swap = self.frame, self.frame.swap(layer)
        if swap is None or swap.W_skip is None:
            return None
        block = frame.block(layer)
        if block.ln2_post is not None:
            g = block.ln2_post.pull(frame.value("mlp_raw", layer), g)
        g = (g * frame.spliced[:, None]) @ swap.W_skip.T.to(g.dtype)
        return swap.pull(block, frame.value("mlp_in", layer), g)
