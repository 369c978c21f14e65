"""What fires times what the weights connect, on average over a data set."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from tl_transcoders.circuits.graphs import Token
from tl_transcoders.circuits.nodes import Embed, Feature
from tl_transcoders.circuits.sizes import check_sizes
from tl_transcoders.circuits.weights.best import Best, Sign, blocks
from tl_transcoders.circuits.weights.checks import check_options, check_word
from tl_transcoders.circuits.weights.ends import Features, Source, member
from tl_transcoders.circuits.weights.stream import Stream, total
from tl_transcoders.circuits.weights.tally import Tally
from tl_transcoders.circuits.weights.via import Step, Via
from tl_transcoders.circuits.weights.way import Way
from tl_transcoders.errors import ConfigError, ShapeError
from tl_transcoders.hosts import check_tokens
from tl_transcoders.splice import Spliced
from tl_transcoders.splice.trace.run import capture

if TYPE_CHECKING:
    import pandas

Given = Literal["source", "target", "both"]
GIVEN: Final = (None, "source", "target", "both")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeanConnections:
    """Mean effects of sources on targets by one way over the tokens of a data set, the strongest first.

    `both[i]` says at how many tokens the target is active and something of the source arrives, `n_source[i]` and
    `n_target[i]` at how many each does, out of `n_tokens`.
    """

    of: Source
    to: Features | Feature
    via: tuple[Step, ...]
    given: Given | None
    source: Int[Tensor, " n"]
    target: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    both: Int[Tensor, " n"]
    n_source: Int[Tensor, " n"]
    n_target: Int[Tensor, " n"]
    n_tokens: int

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[tuple[Feature | Token, Feature, float]]:
        rows = zip(self.source.tolist(), self.target.tolist(), self.value.tolist(), strict=True)
        for s, t, value in rows:
            source, target = member(self.of, s), member(self.to, t)
            assert isinstance(source, Feature | Token)
            assert isinstance(target, Feature)
            yield source, target, value

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """The pairs of source and target, to compare with those of `connections`."""
        return set(zip(self.source.tolist(), self.target.tolist(), strict=True))

    def to_pandas(self) -> "pandas.DataFrame":
        """A table `source target value both n_source n_target`."""
        from pandas import DataFrame

        columns = {
            "source": self.source,
            "target": self.target,
            "value": self.value,
            "both": self.both,
            "n_source": self.n_source,
            "n_target": self.n_target,
        }
        return DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


@torch.no_grad()
def mean_connections(
    spliced: Spliced,
    tokens: Int[Tensor, "batch pos"],
    *,
    source: Source,
    target: Features | Feature,
    k: int = 20,
    via: Via = "residual",
    given: Given | None = None,
    sign: Sign = "both",
    least: int = 1,
    mask: Bool[Tensor, "batch pos"] | None = None,
    batch_size: int = 8,
    memory: int = 1 << 30,
    progress: bool = False,
) -> MeanConnections:
    """The k strongest mean effects by one way over a data set, and how often source and target fire together.

        value[s, t] = Σ_p Σ_q effect[s@q → t@p] / n      effects on the pre-activation of t, as of `contributions`

    n is the number of tokens; given the source, of tokens p at which something of it arrives; given the target (or
    both), of tokens at which the target is active (and something arrives), over which the sum runs then too. Norm
    scales and patterns are those of every prompt. Nothing of the size of the data set, or of all pairs of features,
    is held: only pairs that fire together are counted.

    **Arguments:**

    - `tokens`: prompts of one length, padded on the right where need be; `mask`: which tokens count, by default all
      but padding; never those at which no transcoder stands.
    - `source`, `target`, `via`, `sign`: as of `connections`; `given`: None, `"source"`, `"target"` or `"both"`.
    - `least`: at how many tokens both must fire (where neither or the source is given: something arrive), so that
      the strongest are not those seen once.
    - `memory`: bytes the counted pairs may take.

    Source: Dunefsky et al. 2024, section 4; there with a constant in place of the norm's scale.

    **Raises:** as `connections`; ConfigError where pairs do not fit the memory.

    ```python
    mean_connections(spliced, tokens, source=Features(3), target=Feature(5, 1207), given="target")
    ```
    """
    check_options("mean_connections", k=k, memory=memory, sign=sign)
    check_sizes("mean_connections", batch_size=batch_size, least=least)
    check_word("mean_connections", "given", given, GIVEN)
    _check_target(target)
    check_tokens(spliced.host, tokens, "mean_connections")
    way = Way.of(Stream(spliced), _everywhere(source), _everywhere(target), via)
    counted = _counted(spliced, tokens, mask)
    tally = Tally(way, memory)
    for start in tqdm(range(0, len(tokens), batch_size), disable=not progress, desc="means"):
        rows = slice(start, start + batch_size)
        with spliced.running_rows(rows):
            run = capture(spliced, tokens[rows])
        here = counted[rows].to(run.tokens.device)
        tally.add(run, here if run.excluded is None else here & ~run.excluded)
    return _ranked(tally, given, Options(k, sign, least, memory))


@final
@dataclass(frozen=True, slots=True)
class Options:
    """How many are kept, of which sign, fired together how often, and within how many bytes."""

    k: int
    sign: Sign
    least: int
    memory: int


Ranked = tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]


def _ranked(tally: Tally, given: Given | None, options: Options) -> MeanConnections:
    """The strongest means of what was added up."""
    way, (pair, sums) = tally.way, tally.pairs.found()
    if given in ("target", "both"):
        kept = sums[:, -1] >= options.least
        often, some = pair[kept], sums[kept]
        divided = some[:, -1] if given == "both" else tally.n_target[often // way.n_source]
        s, t, value = _of_pairs(way, often, some[:, :-1] / divided[:, None], options)
    else:
        n = tally.n_source[:, None].clamp(min=1) if given == "source" else max(tally.n_tokens, 1)
        often = tally.n_source[:, None] >= options.least
        s, t, value = _of_all(way, tally.mean / n * often, options)
    target = way.target
    assert isinstance(target, Features | Feature)
    return MeanConnections(
        of=way.source, to=target, via=way.steps, given=given, source=s, target=t, value=value,
        both=_looked_up(pair, sums[:, -1], t * way.n_source + s),
        n_source=tally.n_source[s], n_target=tally.n_target[t], n_tokens=tally.n_tokens,
    )  # fmt: skip


def _of_pairs(
    way: Way, pair: Int[Tensor, " pair"], factor: Float[Tensor, "pair group"], options: Options
) -> Ranked:
    """Sources, targets and means, of pairs that fire together, in the order of their targets."""
    best = Best(1, options.k, options.sign, factor)
    device = way.read.rows.device
    target, source = pair // way.n_source, pair % way.n_source
    numbers, column = target.unique(return_inverse=True)
    at_a_time = max(1, options.memory // factor.itemsize // way.n_source)
    for first in range(0, len(numbers), at_a_time):
        here = (column >= first) & (column < first + at_a_time)
        readers = way.reads(numbers[first : first + at_a_time].to(device))
        value = factor.new_zeros(int(here.sum()))
        for i, group in enumerate(way.groups):
            matrix = (total(group, slice(None), way.dtype) @ readers.T).cpu()
            value += matrix[source[here], column[here] - first] * factor[here, i]
        best.offer(slice(None), value[None], pair[here][None])
    _, number, value = best.found()
    return number % way.n_source, number // way.n_source, value


def _of_all(way: Way, factor: Float[Tensor, "source group"], options: Options) -> Ranked:
    """The same, of all pairs: the factor of a source is the same for every target."""
    factor = factor.to(way.read.rows.device, way.dtype)
    best = Best(1, options.k, options.sign, factor)
    per_block = max(1, options.memory // factor.itemsize)
    for targets in blocks(way.n_target, per_block, way.n_source):
        readers = way.reads(targets)
        for sources in blocks(way.n_source, per_block, len(readers)):
            value = way.writes_by_group(sources, factor[sources]) @ readers.T
            s = torch.arange(sources.start, sources.stop, device=value.device)[:, None]
            t = torch.arange(targets.start, targets.stop, device=value.device)
            best.offer(slice(None), value.reshape(1, -1), (t * way.n_source + s).reshape(1, -1))
    number, value = (found.cpu() for found in best.found()[1:])
    return number % way.n_source, number // way.n_source, value.cpu().double()


def _looked_up(
    pair: Int[Tensor, " pair"], count: Float[Tensor, " pair"], wanted: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """How often pairs fire together; 0 for those that never do."""
    if not len(pair):
        return torch.zeros_like(wanted)
    place = torch.searchsorted(pair, wanted).clamp(max=len(pair) - 1)
    return torch.where(pair[place] == wanted, count[place], 0.0).long()


def _everywhere(end: Any) -> Any:
    """The end without a position, for features and tokens of whole data sets."""
    return replace(end, pos=None) if isinstance(end, Feature | Embed) else end


def _counted(
    spliced: Spliced, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None
) -> Bool[Tensor, "batch pos"]:
    if mask is None:
        counted = torch.ones_like(tokens, dtype=torch.bool)
        padding = getattr(spliced.host.tokenizer, "pad_token_id", None)
        if padding is not None:
            counted[:, 1:] = (
                tokens[:, 1:] != padding
            )  # the first may be a BOS that is the same token
        return counted
    if not isinstance(mask, Tensor):
        raise ConfigError(
            "mean_connections, mask",
            got=f"a {type(mask).__name__}",
            expected="a torch.bool tensor of the shape of the tokens",
            do="Give True for every token that counts.",
        )
    if mask.shape != tokens.shape or mask.dtype != torch.bool:
        raise ShapeError(
            "mean_connections, mask",
            got=f"{mask.dtype} of shape {tuple(mask.shape)}",
            expected=f"torch.bool of shape {tuple(tokens.shape)}",
            do="Give True for every token that counts.",
        )
    return mask


def _check_target(target: object) -> None:
    if not isinstance(target, Features | Feature):
        raise ConfigError(
            "mean_connections, target",
            got=repr(target),
            expected="Features(layer) or a Feature",
            do="Ask connections() for logits, contributions() for a prompt.",
        )
