"""The Gaussian kernel on an interval as a short, rapidly converging sum of products.

    exp(−(x − x')²/2) = Σ_k φ_k(x) φ_k(x'),   φ_k(x) = e^{−x²/2} x^k/√k!,

from the power series of e^{xx'}. At x = x' the terms from K on sum to the probability that a Poisson number of mean
x² is at least K, and by Cauchy and Schwarz no pair misses more: so many terms reach any tolerance for all |x| ≤ L.
Cut off, the sum is still a covariance. The functions obey

    φ_k' = √k φ_{k−1} − √(k+1) φ_{k+1}

(the ladder of the harmonic oscillator), which gives derivatives of any order without differences.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from scipy.special import gammainc
from torch import Tensor

from ..errors import DataError

#: Most functions kept: intervals of about 13 length scales.
MAX_FUNCTIONS = 100


@lru_cache(maxsize=128)
def functions_needed(reach: float, tolerance: float, what: str) -> int:
    """Functions that reach ``tolerance`` for |x| ≤ ``reach``.

    Parameters
    ----------
    reach
        Half the width of the interval in length scales.
    tolerance
        Largest share of the variance that may be missed.
    what
        Whose interval it is, for the message.

    Raises
    ------
    DataError
        If more than ``MAX_FUNCTIONS`` would be needed.
    """
    for count in range(1, MAX_FUNCTIONS + 1):
        if gammainc(count, reach**2) <= tolerance:
            return count
    raise DataError(
        f"{what}: the range is {2 * reach:.3g} length scales wide, which takes more than {MAX_FUNCTIONS} functions; "
        "use a longer lengthscale or a narrower range"
    )


def series(x: Tensor, count: int, order: int = 0) -> Tensor:
    """∂ⁿφ_k/∂xⁿ for k < ``count``, shape (n, count)."""
    root = torch.arange(count + order + 1, dtype=x.dtype, device=x.device).sqrt()
    steps = torch.cat([torch.exp(-0.5 * x * x)[:, None], x[:, None] / root[1 : count + order]], 1)
    out = steps.cumprod(1)
    for _ in range(order):  # every step of the ladder uses up the last function
        size = out.shape[1] - 1
        below = torch.cat([torch.zeros_like(out[:, :1]), root[1:size] * out[:, : size - 1]], 1)
        out = below - root[1 : size + 1] * out[:, 1:]
    return out


def check_inside(value: Tensor, interval: tuple[float, float], what: str) -> None:
    """Refuse values outside the interval: the sum of products is exact inside only.

    Raises
    ------
    DataError
        Naming the first such value and ``what``.
    """
    low, high = interval
    outside = (value < low) | (value > high)
    if bool(outside.any()):
        raise DataError(
            f"{float(value[outside][0]):g} lies outside the range ({low:g}, {high:g}) of {what}: fit the model with a "
            "range= that covers every value you will ask for"
        )
