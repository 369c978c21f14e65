"""A run of a spliced model on some prompts, kept value by value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts import Wiring, check_tokens, dissect, observe, quiet
from tl_transcoders.splice.session import Spliced
from tl_transcoders.splice.trace.forward import (
    Errors,
    Forward,
    Frozen,
    Rows,
    Spot,
    TracedModel,
    Visit,
)
from tl_transcoders.splice.trace.swap import Swap, sparse

TOLERANCE: Final = {torch.float64: 1e-5, torch.float32: 1e-3}
"""How far logits may be apart; hosts compute some norms in float32 whatever the dtype of the model."""
KEPT: Final[frozenset[Spot]] = frozenset(
    {
        "resid_pre", "q", "k", "v", "turned_k", "pattern", "z", "attn_raw", "attn_out",
        "resid_mid", "mlp_in", "features", "error", "mlp_raw", "mlp_out", "sae_in", "sae_out", "resid_post",
    }
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a spliced model computed on prompts of one length.

    `values[spot, layer]` are the tensors `[batch pos ...]`, features sparse. `gap` is the median over positions
    of the largest difference between the host's logits and these.
    """

    spliced: Spliced
    model: TracedModel
    wirings: tuple[Wiring, ...]
    embed: Float[Tensor, "batch pos d_model"]
    tokens: Int[Tensor, "batch pos"]
    excluded: Bool[Tensor, "batch pos"] | None
    values: Mapping[tuple[Spot, int], Any]
    logits: Float[Tensor, "batch pos vocab"]
    gap: float

    @property
    def shape(self) -> tuple[int, int]:
        """Prompts and positions."""
        return self.tokens.shape[0], self.tokens.shape[1]

    def entering(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that enters a block."""
        return self.embed if layer == 0 else self.values["resid_post", layer - 1]

    def column(self, layer: int, index: int) -> Float[Tensor, "batch pos"]:
        """The activations of one feature."""
        return self.values["features", layer].column(index)

    @property
    def errors(self) -> dict[tuple[Spot, int], Tensor]:
        """The errors of every layer that keeps them."""
        return {place: value for place, value in self.values.items() if place[0] == "error"}

    @property
    def resid_final(self) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that the final norm reads."""
        return self.values["resid_post", self.model.n_layers - 1]

    @property
    def all_rows(self) -> Rows:
        """One row for every prompt, from its first position."""
        return Rows(torch.arange(self.shape[0], device=self.tokens.device))

    def forward(
        self,
        *,
        rows: Rows | None = None,
        attention: bool = False,
        mlps: bool = False,
        gains: bool = False,
        errors: Errors = "freeze",
        errors_of: "Run | None" = None,
        visit: Visit | None = None,
    ) -> Forward:
        """A pass that continues this run in `rows`, with attention, MLPs or gains frozen at it; errors may be another run's."""
        theirs = {} if errors_of is None else errors_of.errors
        frozen = Frozen(
            values={**self.values, **theirs},
            rows=self.all_rows if rows is None else rows,
            attention=attention,
            mlps=mlps,
            gains=gains,
        )
        passing = {} if visit is None else {"visit": visit}
        return Forward(
            model=self.model,
            wirings=self.wirings,
            frozen=frozen,
            errors=errors,
            excluded=self.excluded,
            **passing,
        )


@torch.no_grad()
def capture(spliced: Spliced, tokens: Int[Tensor, "batch pos"]) -> Run:
    """Run a spliced model on prompts of one length and keep every value.

    The model runs once, with the user's hooks asleep; then its anatomy computes the same again, and must
    arrive at the same logits.

    **Raises:** ConfigError for tokens that are not ids `[batch pos]`; SpliceError where the architecture computes
    something its anatomy does not describe.
    """
    host = spliced.host
    spliced.check_installed()
    check_tokens(host, tokens, "circuits")
    tokens = tokens.to(host.device)
    model = take_apart(spliced)
    seen = observe(host, model.anatomy, tokens, keep=spliced.torch_hooks)
    values: dict[tuple[Spot, int], Any] = {}

    def keep(spot: Spot, layer: int, value: Any) -> Any:
        if spot in KEPT:
            values[spot, layer] = sparse(value) if spot == "features" else value
        return value

    excluded = spliced.excluded(tokens)
    forward = Forward(
        model=model, wirings=seen.wirings, excluded=excluded, errors="live", visit=keep
    )
    with quiet(host):
        logits = forward.logits(forward.run(seen.embed))
    return Run(
        spliced=spliced,
        model=model,
        wirings=seen.wirings,
        embed=seen.embed,
        tokens=tokens,
        excluded=excluded,
        values=values,
        logits=logits,
        gap=_checked_gap(logits, seen.logits),
    )


def take_apart(spliced: Spliced) -> TracedModel:
    """The anatomy of a spliced model and its transcoders as functions."""
    swaps = {
        layer: Swap(
            layer=layer,
            coder=hooked.transcoder,
            original=nn.Identity() if hooked.original is None else hooked.original,
            policy=hooked.error.policy,
            stored_error=hooked.error.stored,
        )
        for layer, hooked in spliced.hooked.items()
    }
    return TracedModel(
        anatomy=dissect(spliced.host),
        swaps={layer: swap for layer, swap in swaps.items() if swap.site is None},
        saes={layer: swap for layer, swap in swaps.items() if swap.site is not None},
    )


def as_run(spliced: Spliced, tokens: "Run | Tensor") -> Run:
    """The run, or the run on these tokens; raises SpliceError for a run of another splice."""
    if not isinstance(tokens, Run):
        return capture(spliced, tokens)
    if tokens.spliced is not spliced:
        raise SpliceError(
            "run",
            got="a run of another splice",
            expected="a run of this one",
            do="Capture it again with this splice.",
        )
    return tokens


def _checked_gap(computed: Tensor, host: Tensor) -> float:
    per_position = (computed - host).abs().amax(-1)
    gap = float(per_position.median())
    tolerance = TOLERANCE.get(host.dtype, 0.1) * max(1.0, float(host.abs().max()))
    if gap > tolerance:
        raise SpliceError(
            "circuits",
            got=f"logits that differ by {gap:.2g} between the model and its parts",
            expected=f"at most {tolerance:.2g}",
            do="This architecture computes something its anatomy does not describe: please report it.",
        )
    return gap
