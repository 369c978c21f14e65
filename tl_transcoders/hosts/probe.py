"""Learning what a norm computes from what it returns, whatever class it is."""

from collections.abc import Callable

import torch
from torch import Tensor

from tl_transcoders.errors import SpliceError
from tl_transcoders.hosts.anatomy import LOW_PRECISION, Norm


@torch.no_grad()
def probe_norm(
    module: Callable[[Tensor], Tensor], width: int, *, eps: float, like: Tensor, where: str
) -> Norm:
    """The gain, bias and kind of a norm; raises SpliceError where it is neither LayerNorm nor RMSNorm.

    bias = N(0); N(1) equals it where the mean is subtracted; gain from an x of mean 0 without zeros.
    """

    x = torch.ones(width)
    x[1::2] = -1
    if width % 2:
        x[-1] = 2
        x = x - x.mean()
    sample = torch.linspace(-1.3, 2.1, width).sin() * 3
    given = torch.stack([torch.zeros(width), torch.ones(width), x, 4 * x, sample]).to(like)
    bias, of_one, of_x, of_4x, got = module(given[None])[0]
    low = like.dtype in LOW_PRECISION
    centred = torch.allclose(of_one, bias, atol=1e-2 if low else 1e-4)
    normalises = not torch.allclose(of_4x - bias, 4 * (of_x - bias), rtol=1e-2)
    bare = Norm(
        gain=torch.ones_like(bias),
        bias=torch.zeros_like(bias),
        eps=eps,
        centred=centred,
        normalises=normalises,
    )
    wide = x.to(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    gain = ((of_x - bias).to(wide) / bare.normalized(wide)).to(like.dtype)
    norm = Norm(gain=gain, bias=bias, eps=eps, centred=centred, normalises=normalises)
    expected = norm(sample.to(like))
    # Where a bias cancels what is normalised, rounding is of the size of either.
    if not torch.allclose(got, expected, rtol=2e-2 if low else 1e-3, atol=2e-2 if low else 1e-3):
        raise SpliceError(
            where,
            got=f"a norm that differs from LayerNorm and RMSNorm by {(got - expected).abs().max():.2g}",
            expected="one of them",
            do="Circuits cannot be traced in this architecture yet: please report it.",
        )
    return norm
