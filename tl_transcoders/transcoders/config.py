"""What a transcoder is, apart from its weights: widths, activation and where it reads and writes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self, final

from tl_transcoders._types import SAE_SITES, SITES, TRANSCODER_READS, TRANSCODER_WRITES, Site
from tl_transcoders.errors import ConfigError
from tl_transcoders.transcoders.activations import (
    Activation,
    BatchTopK,
    ReLU,
    TopK,
    activation_from_dict,
    activation_to_dict,
)
from tl_transcoders.transcoders.layers import layer_numbers


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TranscoderConfig:
    """Widths, activation and taps of one transcoder or SAE.

    An SAE is a transcoder that reads and writes the same site.

    **Arguments:**

    - `layer`: the block it belongs to.
    - `d_in`, `d_out`, `n_features`: widths; `d_in` may differ from `d_out`.
    - `activation`: `ReLU() | JumpReLU() | TopK(k) | BatchTopK(k)`.
    - `skip`: whether y also contains x @ W_skip; not for SAEs.
    - `read`, `write`: sites: `mlp_in`, `ln2_normalized`, `resid_pre`, `resid_mid`, `resid_post`, `mlp_out_raw`,
      `mlp_out`, `attn_out` or `z`.
    - `folded`: whether the model it was trained on had its norm gains folded into the weights
      (TransformerLens' processed weights).

    Raises ConfigError where the values contradict each other.
    """

    layer: int
    d_in: int
    d_out: int
    n_features: int
    activation: Activation = ReLU()
    skip: bool = False
    read: Site = "mlp_in"
    write: Site = "mlp_out_raw"
    folded: bool = False

    def __post_init__(self) -> None:
        where = f"transcoder of layer {self.layer}"
        _check_sizes(
            where, self.layer, d_in=self.d_in, d_out=self.d_out, n_features=self.n_features
        )
        _check_flags(where, skip=self.skip, folded=self.folded)
        _check_taps(where, self.read, self.write)
        _check_skip(where, self.is_sae, self.skip)
        _check_activation(where, self.activation, self.n_features)

    @property
    def is_sae(self) -> bool:
        """Whether it reads and writes one site."""
        return self.read == self.write

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {**asdict(self), "activation": activation_to_dict(self.activation)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The inverse of `to_dict`; a missing or unknown key raises ConfigError."""
        return cls(**checked_fields(cls, data))  # pyright: ignore[reportArgumentType]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CrossLayerConfig:
    """Widths, activation and taps of a cross-layer transcoder.

    **Arguments:** as `TranscoderConfig`, with `layers` in ascending order: each has an encoder, and
    decoders to itself and to every later one of `layers`.
    """

    layers: tuple[int, ...]
    d_in: int
    d_out: int
    n_features: int
    activation: Activation = ReLU()
    skip: bool = False
    read: Site = "mlp_in"
    write: Site = "mlp_out_raw"
    folded: bool = False

    def __post_init__(self) -> None:
        where = "cross-layer transcoder"
        object.__setattr__(self, "layers", layer_numbers(self.layers))
        _check_flags(where, skip=self.skip, folded=self.folded)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ConfigError(
                where,
                got=f"layers {self.layers}",
                expected="at least one layer, ascending, none twice",
                do="List the layers in order.",
            )
        _check_sizes(
            where, self.layers[0], d_in=self.d_in, d_out=self.d_out, n_features=self.n_features
        )
        if self.read not in TRANSCODER_READS or self.write not in TRANSCODER_WRITES:
            _raise_taps(where, self.read, self.write)
        _check_activation(where, self.activation, self.n_features)

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            **asdict(self),
            "layers": list(self.layers),
            "activation": activation_to_dict(self.activation),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The inverse of `to_dict`; a missing or unknown key raises ConfigError."""
        values = checked_fields(cls, data)
        layers = values["layers"]
        if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
            raise ConfigError(
                "layers", got=repr(layers), expected="a list of integers", do="Correct the config."
            )
        return cls(**{**values, "layers": tuple(layers)})  # pyright: ignore[reportArgumentType]


def checked_fields(cls: type, data: Mapping[str, object]) -> dict[str, object]:
    """`data` with its activation built, after checking that its keys and value types are the dataclass' own."""
    names = {field.name for field in fields(cls)}
    if set(data) != names:
        raise ConfigError(
            cls.__name__,
            got=f"unknown keys {sorted(set(data) - names)}, missing keys {sorted(names - set(data))}",
            expected=f"exactly {sorted(names)}",
            do="Correct the config, or load it with the version that wrote it.",
        )
    for field in fields(cls):
        if field.type in (int, bool, str) and type(data[field.name]) is not field.type:
            raise ConfigError(
                f"{cls.__name__}.{field.name}",
                got=repr(data[field.name]),
                expected=f"a value of type {field.type.__name__}",
                do="Correct the config.",
            )
    for name in ("read", "write"):
        if data[name] not in SITES:
            raise ConfigError(
                f"{cls.__name__}.{name}",
                got=repr(data[name]),
                expected=f"one of {', '.join(SITES)}",
                do="Correct the config.",
            )
    activation = data["activation"]
    if not isinstance(activation, dict):
        raise ConfigError(
            f"{cls.__name__}.activation",
            got=repr(activation),
            expected='an object such as {"kind": "relu"}',
            do="Correct the config.",
        )
    return {**data, "activation": activation_from_dict(activation)}


def _check_flags(where: str, **flags: bool) -> None:
    for name, flag in flags.items():
        if type(flag) is not bool:
            raise ConfigError(
                where, got=f"{name}={flag!r}", expected="True or False", do="Correct the config."
            )


def _check_sizes(where: str, layer: int, **sizes: int) -> None:
    for name, number in {"layer": layer, **sizes}.items():
        if type(number) is not int:
            raise ConfigError(
                where,
                got=f"{name}={number!r}",
                expected=f"an integer {name}",
                do="Correct the config.",
            )
    if layer < 0:
        raise ConfigError(
            where, got=f"layer {layer}", expected="0 or more", do="Count layers from 0."
        )
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(
                where, got=f"{name}={size}", expected="1 or more", do="Correct the widths."
            )


def _check_taps(where: str, read: Site, write: Site) -> None:
    sae = read == write and read in SAE_SITES
    transcoder = read in TRANSCODER_READS and write in TRANSCODER_WRITES
    if not (sae or transcoder):
        _raise_taps(where, read, write)


def _raise_taps(where: str, read: str, write: str) -> None:
    raise ConfigError(
        where,
        got=f"read={read!r}, write={write!r}",
        expected=(
            f"a transcoder (read {', '.join(TRANSCODER_READS)}; write {', '.join(TRANSCODER_WRITES)}) "
            f"or an SAE (read and write the same of {', '.join(SAE_SITES)})"
        ),
        do=_advice(read, write),
    )


def _advice(read: str, write: str) -> str:
    if read in SAE_SITES and read not in TRANSCODER_READS:
        return f"For an SAE also set write={read!r}."
    if write in SAE_SITES and write not in TRANSCODER_WRITES:
        return f"For an SAE also set read={write!r}."
    return "Name the sites the weights were trained on."


def _check_skip(where: str, is_sae: bool, skip: bool) -> None:
    if is_sae and skip:
        raise ConfigError(
            where,
            got="skip=True for an SAE",
            expected="no skip, through which an SAE would copy its input to its output",
            do="Leave skip out, or read and write different sites.",
        )


def _check_activation(where: str, activation: object, n_features: int) -> None:
    if not isinstance(activation, Activation):
        raise ConfigError(
            f"{where}, activation",
            got=repr(activation),
            expected="ReLU(), JumpReLU(), TopK(k) or BatchTopK(k)",
            do="Give an instance, such as TopK(32).",
        )
    if isinstance(activation, TopK | BatchTopK) and activation.k > n_features:
        raise ConfigError(
            where,
            got=f"k={activation.k}",
            expected=f"at most the width, {n_features} features",
            do="Lower k or widen the transcoder.",
        )
