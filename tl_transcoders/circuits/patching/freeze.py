"""What stays as it was in the base run between senders and receivers."""

from dataclasses import dataclass
from typing import Final, Literal, final

from tl_transcoders.errors import ConfigError

ErrorPolicy = Literal["freeze", "live", "zero", "source"]
ERROR_POLICIES: Final = ("freeze", "live", "zero", "source")
Preset = Literal["edge", "wang", "linear"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """What stays as it was in the base run.

    **Arguments:**

    - `mlps`: whether MLPs, features and errors between senders and receivers keep their base values. Heads always do.
    - `gain`: whether a receiver's norm keeps its base σ, and a feature that receives its base gate (open or shut).
    - `thresholds`: whether a TopK feature that receives competes against the base run's k-th pre-activation
      instead of what the other features would become.
    - `errors`: what errors are wherever something is computed again. `"freeze"`: the base run's; `"live"`:
      mlp(x) − transcoder(x) of the new x, so that the whole is the original model; `"zero"`; `"source"`: the
      source run's. None: live where MLPs are, else freeze.

    Presets: `"edge"` (Goldowsky-Dill et al. 2023; Hanna et al. 2023) freezes everything but the receiver's norm,
    `"wang"` (Wang et al. 2022) lets MLPs run, `"linear"` freezes gains as attribution graphs do.
    """

    mlps: bool = True
    gain: bool = False
    thresholds: bool = False
    errors: ErrorPolicy | None = None

    def __post_init__(self) -> None:
        if self.errors is not None and self.errors not in ERROR_POLICIES:
            raise ConfigError(
                "Freeze.errors",
                got=repr(self.errors),
                expected=f"one of {', '.join(map(repr, ERROR_POLICIES))}",
                do="Choose what errors are where something is computed again.",
            )
        if self.gain and not self.mlps:
            raise ConfigError(
                "Freeze",
                got="gain=True with mlps=False",
                expected="frozen gains only where everything in between is frozen",
                do='Use the preset "linear", or leave gain out.',
            )


PRESETS: Final[dict[str, Freeze]] = {
    "edge": Freeze(),
    "wang": Freeze(mlps=False),
    "linear": Freeze(gain=True),
}


def as_freeze(freeze: Preset | Freeze) -> Freeze:
    """The record a preset stands for; raises ConfigError for another name."""
    if isinstance(freeze, Freeze):
        return freeze
    if freeze not in PRESETS:
        raise ConfigError(
            "freeze",
            got=repr(freeze),
            expected=f"a Freeze or one of {', '.join(map(repr, PRESETS))}",
            do="Choose what stays frozen between senders and receivers.",
        )
    return PRESETS[freeze]
