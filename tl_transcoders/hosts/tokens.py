"""Which tokens a model can read."""

import torch
from torch import Tensor

from tl_transcoders.errors import ConfigError
from tl_transcoders.hosts.base import AbstractHost

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_tokens(host: AbstractHost, tokens: object, where: str) -> None:
    """Raise ConfigError unless `tokens` are ids of the model's vocabulary, `[batch pos]`, within its context."""
    check_ids(host, tokens, where)
    assert isinstance(tokens, Tensor)
    check_length(host, tokens.shape[1], where)


def check_length(host: AbstractHost, positions: int, where: str) -> None:
    """Raise ConfigError for prompts longer than the model's context."""
    if positions > host.n_ctx:
        raise ConfigError(
            where,
            got=f"prompts of {positions} positions",
            expected=f"at most {host.n_ctx}, the model's context",
            do="Cut them, tokens[:, :n], or choose a model with a longer context.",
        )


def check_ids(host: AbstractHost, tokens: object, where: str) -> None:
    """Raise ConfigError unless `tokens` are ids of the model's vocabulary, `[batch pos]`, of any length."""
    got = _wrong(tokens, host.d_vocab)
    if got is not None:
        raise ConfigError(
            where,
            got=got,
            expected=f"token ids of shape [batch pos], from 0 to {host.d_vocab - 1}",
            do="Of text, make them with model.to_tokens(text).",
        )


def _wrong(tokens: object, d_vocab: int) -> str | None:
    if not isinstance(tokens, Tensor):
        return f"the text {tokens!r:.50}" if isinstance(tokens, str) else type(tokens).__name__
    if tokens.dtype not in _INTEGERS or tokens.ndim != 2 or not tokens.numel():
        return f"{tokens.dtype} of shape {tuple(tokens.shape)}"
    least, most = (int(end) for end in tokens.aminmax())
    if least < 0 or most >= d_vocab:
        return f"the id {least if least < 0 else most}"
    return None
