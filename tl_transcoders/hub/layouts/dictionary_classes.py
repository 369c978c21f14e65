"""The classes of dictionary_learning 0.1.0: what their state dicts hold and what they compute."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.build import transcoder_config
from tl_transcoders.hub.canonical import Weights, fold_pre_bias, gated_as_jumprelu
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.tensors import Dims, checked
from tl_transcoders.transcoders import (
    Activation,
    BatchTopK,
    JumpReLU,
    ReLU,
    TopK,
    TranscoderConfig,
)

_LINEAR = {"encoder.weight": "feature d", "decoder.weight": "d feature"}
_MATRIX = {"W_enc": "d feature", "W_dec": "feature d"}
_B_DEC = ("b_dec", "bias", "decoder_bias", "decoder.bias")
_UNUSED = ("k", "group_sizes")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryClass:
    """One class.

    **Arguments:**

    - `tensors`: the weights by the name they are saved under, with their dimensions.
    - `pre_bias`: whether the decoder's bias is subtracted from x.
    - `activation`: of k.
    - `unused`: further tensors that may be there and change nothing.
    """

    tensors: Mapping[str, str]
    pre_bias: bool
    activation: Callable[[int], Activation]
    unused: tuple[str, ...] = ()


CLASSES: Mapping[str, DictionaryClass] = {
    "AutoEncoder": DictionaryClass(
        tensors={**_LINEAR, "encoder.bias": "feature", "bias": "d"},
        pre_bias=True,
        activation=lambda _: ReLU(),
    ),
    "AutoEncoderNew": DictionaryClass(
        tensors={**_LINEAR, "encoder.bias": "feature", "decoder.bias": "d"},
        pre_bias=False,
        activation=lambda _: ReLU(),
    ),
    "GatedAutoEncoder": DictionaryClass(
        tensors={
            **_LINEAR,
            "decoder_bias": "d",
            "r_mag": "feature",
            "gate_bias": "feature",
            "mag_bias": "feature",
        },
        pre_bias=True,
        activation=lambda _: JumpReLU(),
    ),
    "JumpReluAutoEncoder": DictionaryClass(
        tensors={**_MATRIX, "b_enc": "feature", "b_dec": "d", "threshold": "feature"},
        pre_bias=False,
        activation=lambda _: JumpReLU(),
    ),
    "AutoEncoderTopK": DictionaryClass(
        tensors={**_LINEAR, "encoder.bias": "feature", "b_dec": "d"},
        pre_bias=True,
        activation=TopK,
        unused=("k", "threshold"),
    ),
    "BatchTopKSAE": DictionaryClass(
        tensors={**_LINEAR, "encoder.bias": "feature", "b_dec": "d", "threshold": ""},
        pre_bias=True,
        activation=BatchTopK,
        unused=_UNUSED,
    ),
    "MatryoshkaBatchTopKSAE": DictionaryClass(
        tensors={**_MATRIX, "b_enc": "feature", "b_dec": "d", "threshold": ""},
        pre_bias=True,
        activation=BatchTopK,
        unused=_UNUSED,
    ),
}


def dictionary_class(trainer: Fields) -> DictionaryClass:
    """The class a config names; raises TranscoderFormatError for others."""
    name = trainer.text("dict_class")
    if name not in CLASSES:
        raise trainer.wrong(
            "dict_class",
            expected=f"one of {', '.join(CLASSES)}",
            do="Save it as one of these classes, or as SAELens does.",
        )
    return CLASSES[name]


def dictionary_config(trainer: Fields) -> TranscoderConfig:
    """What `config.json` says of one dictionary; raises TranscoderFormatError."""
    kind = dictionary_class(trainer)
    submodule = trainer.text_or_none("submodule_name")
    if submodule is not None and not submodule.startswith("resid_post"):
        raise trainer.wrong(
            "submodule_name",
            expected="the residual stream after a block, resid_post_layer_…",
            do="Other places are named differently by everyone: load it with dictionary_learning.",
        )
    k = trainer.integer("k") if kind.activation in (TopK, BatchTopK) else 1
    if k < 1:
        raise trainer.wrong("k", expected="1 or more", do="Correct the config.")
    return transcoder_config(
        trainer.where,
        layer=trainer.integer("layer"),
        d_in=trainer.integer("activation_dim"),
        d_out=trainer.integer("activation_dim"),
        n_features=trainer.integer("dict_size"),
        activation=kind.activation(k),
        read="resid_post",
        write="resid_post",
    )


def dictionary_weights(
    where: str,
    kind: DictionaryClass,
    cfg: TranscoderConfig,
    state: Mapping[str, Tensor],
    request: Request,
) -> Weights:
    """The canonical weights of a state dict; raises TranscoderFormatError where it does not fit the config."""
    _check_k(where, cfg.activation, state)
    used = {name: tensor for name, tensor in state.items() if name not in kind.unused}
    sizes = {"d": cfg.d_in, "feature": cfg.n_features}
    shapes: dict[str, Dims] = {
        name: {dim: sizes[dim] for dim in dims.split()} for name, dims in kind.tensors.items()
    }
    weights = _canonical(checked(where, used, shapes, request))
    return fold_pre_bias(weights, weights.b_dec) if kind.pre_bias else weights


def _check_k(where: str, activation: Activation, state: Mapping[str, Tensor]) -> None:
    stored = state.get("k")
    if stored is None or not isinstance(activation, TopK | BatchTopK):
        return
    if stored.numel() != 1 or stored.is_complex() or stored.item() != activation.k:
        raise TranscoderFormatError(
            f"{where}, k",
            got=f"{stored.numel()} values, or another k than the config's",
            expected=f"k={activation.k}",
            do="Make the config and the weights agree.",
        )


def _canonical(tensors: Mapping[str, Tensor]) -> Weights:
    linear = "encoder.weight" in tensors
    W_enc = tensors["encoder.weight"].T if linear else tensors["W_enc"]
    W_dec = tensors["decoder.weight"].T.contiguous() if linear else tensors["W_dec"]
    b_dec = next(tensors[name] for name in _B_DEC if name in tensors)
    if "r_mag" in tensors:
        return gated_as_jumprelu(
            W_enc,
            W_dec,
            b_dec,
            r_mag=tensors["r_mag"],
            b_mag=tensors["mag_bias"],
            b_gate=tensors["gate_bias"],
        )
    b_enc = tensors["encoder.bias" if linear else "b_enc"]
    threshold = tensors.get("threshold")
    return Weights(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        threshold=None if threshold is None else threshold.to(b_enc).expand_as(b_enc).contiguous(),
    )
