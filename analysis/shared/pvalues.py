"""P-values as decimal logarithms, for those too small for a float, and as text."""

from __future__ import annotations

import math

from scipy import special

__all__ = ["format_p", "log10_of", "log10_p_t", "log10_p_z"]


def format_p(log10_p: float | None) -> str:
    """A p-value as text: "0.0312", "4.5e-17", below what floats hold "10^-1254"; a dash without a test."""
    if log10_p is None:
        return "-"
    if log10_p < -300:
        return f"10^{log10_p:.0f}"
    p = 10.0**log10_p
    return f"{p:.4f}" if p >= 1e-3 else f"{p:.1e}"


def log10_of(p: float) -> float | None:
    """Decimal logarithm; None where the value is 0, that is: too small for a float."""
    return math.log10(p) if p > 0 else None


def log10_p_z(z: float) -> float:
    """Decimal logarithm of the two-sided p-value of a normal statistic."""
    return float((special.log_ndtr(-abs(z)) + math.log(2)) / math.log(10))


def log10_p_t(statistic: float, df: float, p: float) -> float | None:
    """Decimal logarithm of the two-sided p-value of a t statistic.

    It is that of `p`. Where `p` is 0, too small for a float, scipy's `logsf` is -inf, so the tail's series gives it.
    """
    if not math.isfinite(statistic):
        return None
    if p > 0:
        return math.log10(p)
    # Two-sided p is the incomplete beta function I_x(df/2, 1/2): its leading power times a hypergeometric factor.
    x, a = df / (df + statistic**2), df / 2
    factor = float(special.hyp2f1(a + 0.5, 1.0, a + 1, x))
    log = a * math.log(x) + 0.5 * math.log1p(-x) - math.log(a) - float(special.betaln(a, 0.5)) + math.log(factor)
    return log / math.log(10)
