"""Where in a data set a feature fires: the strongest places, samples of all strengths, histograms."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_transcoders.errors import ConfigError
from tl_transcoders.evaluation.recording import recorded
from tl_transcoders.splice import Spliced


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A place where a feature fires, and what is around it: ids of tokens and activations at them."""

    prompt: int
    pos: int
    value: float
    first: int
    tokens: tuple[int, ...]
    values: tuple[float, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureScores:
    """Every place at which one feature is active, in the order of the data set."""

    layer: int
    index: int
    tokens: Int[Tensor, "batch pos"]
    prompt: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    n_tokens: int

    @property
    def frequency(self) -> float:
        """Share of tokens at which it is active."""
        return len(self.value) / max(self.n_tokens, 1)

    def top(self, k: int = 10, *, window: int = 10) -> list[Example]:
        """The strongest place of each of the k prompts with the strongest."""
        order = self.value.argsort(descending=True, stable=True)
        seen: set[int] = set()
        chosen = []
        for i in order.tolist():
            prompt = int(self.prompt[i])
            if prompt not in seen and len(chosen) < k:
                seen.add(prompt)
                chosen.append(i)
        return [self._example(i, window) for i in chosen]

    def uniform(self, k: int = 10, *, seed: int = 0, window: int = 10) -> list[Example]:
        """k places at which it is active, drawn with equal chances, no place twice; the strongest first."""
        chosen = self._drawn(torch.arange(len(self.value)), k, _generator(seed))
        return [self._example(i, window) for i in self._by_strength(chosen)]

    def bands(
        self, n: int = 5, *, per_band: int = 5, seed: int = 0, window: int = 10
    ) -> list[list[Example]]:
        """Places drawn from each of n intervals of equal width between 0 and the largest activation, the highest first."""
        if not len(self.value):
            return [[] for _ in range(n)]
        generator, width = _generator(seed), float(self.value.max()) / n
        band = (self.value / width).ceil().long().sub(1).clamp(0, n - 1)
        found = []
        for i in reversed(range(n)):
            (members,) = (band == i).nonzero(as_tuple=True)
            chosen = self._by_strength(self._drawn(members.cpu(), per_band, generator))
            found.append([self._example(j, window) for j in chosen])
        return found

    def histogram(self, bins: int = 50) -> tuple[Int[Tensor, " bin"], Float[Tensor, " edge"]]:
        """How often it is active with a strength between edges; where it is silent is not counted."""
        most = float(self.value.max()) if len(self.value) else 1.0
        edges = torch.linspace(0.0, most, bins + 1)
        place = torch.bucketize(self.value.float().cpu(), edges).sub(1).clamp(0, bins - 1)
        return torch.bincount(place, minlength=bins), edges

    def _drawn(
        self, among: Int[Tensor, " m"], k: int, generator: torch.Generator
    ) -> Int[Tensor, " chosen"]:
        return among[torch.randperm(len(among), generator=generator)[:k]]

    def _by_strength(self, chosen: Int[Tensor, " chosen"]) -> list[int]:
        return sorted(chosen.tolist(), key=lambda i: -float(self.value[i]))

    def _example(self, i: int, window: int) -> Example:
        prompt, pos = int(self.prompt[i]), int(self.pos[i])
        first = max(0, pos - window)
        around = self.tokens[prompt, first : pos + window + 1]
        here = (self.prompt == prompt) & (self.pos >= first) & (self.pos <= pos + window)
        values = torch.zeros(len(around), dtype=self.value.dtype, device=self.value.device)
        values[self.pos[here] - first] = self.value[here]
        return Example(
            prompt=prompt,
            pos=pos,
            value=float(self.value[i]),
            first=first,
            tokens=tuple(around.tolist()),
            values=tuple(values.tolist()),
        )


@torch.no_grad()
def feature_scores(
    spliced: Spliced,
    tokens: Int[Tensor, "batch pos"],
    layer: int,
    index: int,
    *,
    mask: Bool[Tensor, "batch pos"] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> FeatureScores:
    """Where in a data set a feature is active and how strongly, in the precision of the model.

    Features are those of the original model's activations: errors are kept meanwhile. Only active places are held.

    **Raises:** ConfigError for a feature or tokens that are not there; ShapeError for a mask of another shape.

    ```python
    scores = feature_scores(spliced, tokens, 5, 1207)
    scores.top(5), scores.bands(5), scores.histogram()
    ```
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    n_tokens = 0
    options = {"where": "feature_scores", "mask": mask, "batch_size": batch_size}
    for first, fired, counted in recorded(spliced, tokens, [layer], progress=progress, **options):
        post = fired[layer]
        if not 0 <= index < post.shape[-1]:
            raise ConfigError(
                "feature_scores, index",
                got=f"{index}",
                expected=f"a feature from 0 to {post.shape[-1] - 1}",
                do="Choose one of them.",
            )
        n_tokens += int(counted.sum())
        column = post[..., index] * counted
        prompt, pos = column.nonzero(as_tuple=True)
        found.append((prompt + first, pos, column[prompt, pos]))
    prompt, pos, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    return FeatureScores(
        layer=layer, index=index, tokens=tokens, prompt=prompt, pos=pos, value=value,
        n_tokens=n_tokens,
    )  # fmt: skip


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
