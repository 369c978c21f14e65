"""What fires on a data set and arrives by one way, added up prompt by prompt."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_transcoders.circuits.nodes import Feature
from tl_transcoders.circuits.weights.ends import Features
from tl_transcoders.circuits.weights.firing import Firing, firing
from tl_transcoders.circuits.weights.kernel import kernel, read_scale, write_scale
from tl_transcoders.circuits.weights.pair_sums import PairSums
from tl_transcoders.circuits.weights.stream import WrittenRows
from tl_transcoders.circuits.weights.way import Way
from tl_transcoders.splice.trace.run import Run


@final
class Tally:
    """Sums of the input-dependent factor, arriving[s, p] = Σ_q kernel[p, q] · activation[s, q] / (σ_j(q) · σ_t(p)).

    `mean` holds Σ_p of it for every source, `pairs` the same over positions where a target is active, and last how often
    both are; a column for each part of what a source writes that has a post-norm of its own. All are on the CPU: sums of
    many small numbers want float64, which not every device has.
    """

    def __init__(self, way: Way, memory: int) -> None:
        like = torch.empty(0, dtype=torch.float64)
        self.way, columns = way, len(way.groups)
        self.mean = like.new_zeros(way.n_source, columns)
        self.n_source = torch.zeros(way.n_source, dtype=torch.long)
        self.n_target = torch.zeros(way.n_target, dtype=torch.long)
        self.n_tokens = 0
        self.pairs = PairSums(columns + 1, like, memory)

    def add(self, run: Run, counted: Bool[Tensor, "batch pos"]) -> None:
        """The prompts of a run; only what arrives at positions that count."""
        way, dtype, target = self.way, self.way.dtype, self.way.target
        assert isinstance(target, Features | Feature)
        written, read = firing(run, way.source, dtype), firing(run, target, dtype)
        passed = kernel(run, way.steps, dtype)
        scale = read_scale(run, way.stream, target, dtype)
        weights = [self._weight(run, group, written) for group in way.groups]
        self.n_tokens += int(counted.sum())
        for prompt in range(len(run.tokens)):
            here = written.prompt == prompt
            self._add_prompt(
                written.take(here),
                read.take(read.prompt == prompt),
                [weight[here] for weight in weights],
                None if passed is None else passed[prompt],
                counted[prompt] / scale[prompt],
            )

    def _add_prompt(
        self,
        written: Firing,
        read: Firing,
        weights: list[Float[Tensor, " n"]],
        passed: Float[Tensor, "to from"] | None,
        weight: Float[Tensor, " pos"],
    ) -> None:
        length = len(weight)
        source, column = written.number.unique(return_inverse=True)
        target, row = read.number.unique(return_inverse=True)
        active = weight.new_zeros(len(target), length)
        active[row, read.pos] = 1.0
        active = active * (weight != 0)
        arriving = []
        for part in weights:
            fired = part.new_zeros(length, len(source)).index_put(
                (written.pos, column), part, accumulate=True
            )
            fired = fired if passed is None else passed @ fired
            arriving.append((fired * weight[:, None]).cpu().double())
        there = torch.stack([part != 0 for part in arriving]).any(0).cpu().double()
        active = active.cpu().double()
        source, target = source.cpu(), target.cpu()
        self.mean[source] += torch.stack([part.sum(0) for part in arriving], 1)
        self.n_source[source] += there.sum(0).long()
        self.n_target[target] += active.sum(1).long()
        both = active @ there
        t, s = both.nonzero(as_tuple=True)
        sums = [(active @ part)[t, s] for part in arriving]
        pair = target[t] * self.way.n_source + source[s]
        self.pairs.add(pair, torch.stack([*sums, both[t, s]], 1))

    def _weight(
        self, run: Run, group: tuple[WrittenRows, ...], written: Firing
    ) -> Float[Tensor, " n"]:
        """Activations over the scale of the group's post-norm."""
        first = group[0]
        if first.layer is None or first.norm is None:
            return written.value
        scale = write_scale(run, first.layer, written.value.dtype)
        return written.value / scale[written.prompt, written.pos]
