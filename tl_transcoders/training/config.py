"""How transcoders are trained."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from tl_transcoders._types import Site
from tl_transcoders.errors import ConfigError
from tl_transcoders.transcoders import (
    Activation,
    CrossLayerConfig,
    JumpReLU,
    ReLU,
    TopK,
    TranscoderConfig,
)
from tl_transcoders.transcoders.activations import activation_to_dict

MAX_SEED = 1_000_000_000
_SEEDS = f"an integer from 0 to {MAX_SEED - 1}"
L1 = 0.03
SPARSITY = 1e-3
BANDWIDTH = 0.1
DEAD_AFTER = 1_000_000
TOPK_32 = TopK(32)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What is trained, on how much, and how.

        loss = FVU + penalty + auxk · AuxK        FVU = Σ(y − ŷ)² / Σ(y − mean y)²

    The penalty is `l1` · L1 for ReLU, `sparsity` · L0 for JumpReLU, and nothing for TopK and BatchTopK.
    AuxK is how badly the dead features alone explain what the living ones leave over, so that they learn too.

    **Arguments:**

    - `n_features`, `activation`, `skip`, `read`, `write`: of the transcoders; `read == write` makes SAEs, which
      have no skip.
    - `n_tokens`: length of the run; None for all of `tokens` where that is a tensor.
    - `batch_size`: tokens per step, on average: the last few of a shuffled block are spread over its steps.
    - `shuffle`: how many batches of activations are held and shuffled together.
    - `context`: tokens of a sequence the model sees at once; longer rows are cut into pieces, and a
      remainder shorter than `context` is left out. None for rows as they come.
    - `exclude`: token ids at which nothing is learnt (BOS, padding).
    - `data_units`: whether learning rates count in units of the spread of x and y in the first batch (and
      the encoder begins in them), so that the scale of a layer's activations does not matter.
    - `lr`: None for sparsify's rule, 2e-4 / √(n_features / 2¹⁴), and with `data_units` ten times
      that, at most 5e-3.
    - `warmup`, `decay`: shares of the run in which the learning rate rises to `lr` and falls to 0.
    - `l1`: for ReLU only, default 0.03.
    - `sparsity`, `bandwidth`: for JumpReLU only; the price of one active feature (default 0.001) and the
      width of its straight-through window in units of the pre-activations (default 0.1).
    - `auxk`: weight of the auxiliary loss.
    - `dead_after`: the number of tokens without firing after which a feature is dead. None for 1,000,000, or a
      quarter of the run where that is less.
    - `unit_norm_decoder`: scale every decoder row to norm 1 at the end; refused for TopK, where it is not exact.
    - `checkpoint`, `checkpoint_every`: folder, and steps between two checkpoints.

    **Raises:** ConfigError where the values contradict each other.

    ```python
    config = TrainConfig(n_features=4608, activation=TopK(32), skip=True, n_tokens=1_000_000)
    ```
    """

    n_features: int
    activation: Activation = TOPK_32
    skip: bool = False
    read: Site = "mlp_in"
    write: Site = "mlp_out_raw"
    n_tokens: int | None = None
    batch_size: int = 2048
    shuffle: int = 4
    context: int | None = None
    exclude: tuple[int, ...] = ()
    data_units: bool = True
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.05
    decay: float = 0.5
    l1: float | None = None
    sparsity: float | None = None
    bandwidth: float | None = None
    auxk: float = 1 / 32
    dead_after: int | None = None
    unit_norm_decoder: bool = False
    seed: int = 0
    checkpoint: str | Path | None = None
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        self._check_coder()
        for name in (
            "n_tokens",
            "batch_size",
            "shuffle",
            "context",
            "dead_after",
            "checkpoint_every",
        ):
            self._check_count(name)
        for name in ("batch_size", "shuffle", "checkpoint_every"):
            self._check(name, lambda n: n is not None, "an integer above 0")
        for name in ("data_units", "unit_norm_decoder"):
            self._check(name, lambda flag: type(flag) is bool, "True or False")
        self._check("seed", lambda seed: type(seed) is int and 0 <= seed < MAX_SEED, _SEEDS)
        self._check("auxk", lambda weight: weight is not None, "0 or more")
        for name in ("lr", "bandwidth"):
            self._check_positive(name)
        for name in ("l1", "sparsity", "auxk"):
            self._check(name, lambda value: value is None or value >= 0, "0 or more")
        for name in ("warmup", "decay"):
            self._check(name, lambda share: 0 <= share <= 1, "a share between 0 and 1")
        self._check(
            "betas",
            lambda b: len(b) == 2 and all(0 <= beta < 1 for beta in b),
            "two numbers in [0, 1)",
        )
        self._check(
            "checkpoint", lambda f: f is None or isinstance(f, Path) or _is_name(f), "a folder"
        )
        self._check_belongs("l1", ReLU)
        self._check_belongs("sparsity", JumpReLU)
        self._check_belongs("bandwidth", JumpReLU)
        self._check("exclude", _are_ids, "a tuple of token ids")
        self._check_unit_norm()
        self._check_dead_after()

    @property
    def learning_rate(self) -> float:
        """`lr`, or the rule."""
        if self.lr is not None:
            return self.lr
        rule = 2e-4 / (self.n_features / 2**14) ** 0.5
        return min(10 * rule, 5e-3) if self.data_units else rule

    @property
    def l1_weight(self) -> float:
        """The weight of L1: 0 for every activation but ReLU."""
        return _weight(self.l1, L1) if isinstance(self.activation, ReLU) else 0.0

    @property
    def l0_weight(self) -> float:
        """The weight of L0: 0 for every activation but JumpReLU."""
        return _weight(self.sparsity, SPARSITY) if isinstance(self.activation, JumpReLU) else 0.0

    @property
    def window(self) -> float:
        """The bandwidth of JumpReLU's straight-through gradient."""
        return _weight(self.bandwidth, BANDWIDTH)

    @property
    def silence(self) -> int:
        """`dead_after`, or the rule."""
        if self.dead_after is not None or self.n_tokens is None:
            return self.dead_after or DEAD_AFTER
        return max(1, min(DEAD_AFTER, self.n_tokens // 4))

    def coder_config(self, *, layer: int, d_in: int, d_out: int, folded: bool) -> TranscoderConfig:
        """The config of the transcoder of one layer."""
        return TranscoderConfig(
            layer=layer,
            d_in=d_in,
            d_out=d_out,
            n_features=self.n_features,
            activation=self.activation,
            skip=self.skip,
            read=self.read,
            write=self.write,
            folded=folded,
        )

    def cross_layer_config(
        self, *, layers: tuple[int, ...], d_in: int, d_out: int, folded: bool
    ) -> CrossLayerConfig:
        """The config of the cross-layer transcoder of some layers."""
        return CrossLayerConfig(
            layers=layers,
            d_in=d_in,
            d_out=d_out,
            n_features=self.n_features,
            activation=self.activation,
            skip=self.skip,
            read=self.read,
            write=self.write,
            folded=folded,
        )

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        activation = activation_to_dict(self.activation)
        plain = {**asdict(self), "activation": activation, "checkpoint": checkpoint}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}

    def _check_coder(self) -> None:
        try:
            self.coder_config(layer=0, d_in=1, d_out=1, folded=False)
        except ConfigError as error:
            where = error.where.replace("transcoder of layer 0", "TrainConfig")
            raise ConfigError(where, got=error.got, expected=error.expected, do=error.do) from None

    def _check_dead_after(self) -> None:
        if self.n_tokens is None or self.dead_after is None:
            return
        if self.auxk and self.dead_after >= self.n_tokens:
            raise ConfigError(
                "TrainConfig.dead_after",
                got=f"{self.dead_after} for a run of {self.n_tokens} tokens",
                expected="fewer tokens than the run has, because AuxK acts on dead features only",
                do="Lower dead_after, leave it out, or set auxk=0.",
            )

    def _check_positive(self, name: str) -> None:
        self._check(name, lambda value: value is None or 0 < value < float("inf"), "more than 0")

    def _check_count(self, name: str) -> None:
        self._check(name, lambda n: n is None or (type(n) is int and n > 0), "an integer above 0")

    def _check(self, name: str, holds: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        try:
            held = holds(value)
        except TypeError:
            held = False
        if not held:
            raise ConfigError(
                f"TrainConfig.{name}", got=repr(value), expected=expected, do="Correct the config."
            )

    def _check_belongs(self, name: str, kind: type[Activation]) -> None:
        if getattr(self, name) is not None and not isinstance(self.activation, kind):
            raise ConfigError(
                f"TrainConfig.{name}",
                got=f"{getattr(self, name)!r} with {self.activation}",
                expected=f"None, because only {kind.__name__} uses it",
                do=f"Leave {name} out, or train {kind.__name__} transcoders.",
            )

    def _check_unit_norm(self) -> None:
        if self.unit_norm_decoder and isinstance(self.activation, TopK):
            raise ConfigError(
                "TrainConfig.unit_norm_decoder",
                got=f"True with {self.activation}",
                expected="False, because scaling features changes which are the k largest",
                do="Leave it out, or train ReLU, JumpReLU or BatchTopK transcoders.",
            )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_ids(exclude: object) -> bool:
    return isinstance(exclude, tuple) and all(type(token) is int for token in exclude)


def _weight(given: float | None, default: float) -> float:
    return default if given is None else given
