"""Numbers and differences as the report writes them. A stored report is shown by this alone, without statistics."""

import numpy as np

from distill.evaluate.interval import Interval
from distill.report.score_data import GAPS, Comparison, GapChange, StepsChange

MISSING = "not recorded"


def percent(value: float | None, digits: int = 0) -> str:
    """`47 %`."""
    return MISSING if value is None else f"{_plain(value, digits)} %"


def bounds(interval: Interval, digits: int = 0) -> str:
    """`[38, 56]`, in percent or points."""
    return f"[{_plain(interval.low, digits)}, {_plain(interval.high, digits)}]"


def _plain(value: float, digits: int) -> str:
    return _minus(f"{value * 100:.{digits}f}")


def _plus(text: str) -> str:
    """With the sign of what is above 0."""
    return text if text.startswith("−") or not text.strip("0.,") else f"+{text}"


def _minus(text: str) -> str:
    """With the minus sign of print, and 0 without one."""
    return text.replace("-", "−" if text.strip("-0.,") else "")


def share_of(count: int, total: int, interval: Interval) -> str:
    """`12 of 80, 15 % [9, 24]`; empty where there is nothing to have a share of."""
    return f"{count:,} of {total:,}, {percent(count / total)} {bounds(interval)}" if total else ""


def points(value: float, digits: int = 0) -> str:
    """`+21` or `−3`, in percentage points."""
    return _plus(_plain(value, digits))


def number(value: float | None, digits: int = 0) -> str:
    """`12,345`."""
    return MISSING if value is None else _minus(f"{value:,.{digits}f}")


def signed(value: float) -> str:
    """`+39` or `−22`; `0` for what rounds to it."""
    return _plus(_minus(f"{value:,.0f}"))


def usd(value: float | None) -> str:
    """`12.35`, or two significant digits below ten dollars: `0.0012`."""
    if value is None or value >= 10 or value == 0:
        return number(value, 2)
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")


def power(value: float | None) -> str:
    """`1.2 × 10^15`."""
    if value is None:
        return MISSING
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits} × 10^{int(exponent)}"


def duration(seconds: float | None) -> str:
    """`8.2 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_parameters: int | None) -> str:
    """`135M`."""
    if num_parameters is None:
        return ""
    return f"{num_parameters / 1e9:.1f}B" if num_parameters >= 1e9 else f"{num_parameters / 1e6:.0f}M"


def served_name(model: str) -> str:
    """The name that `distill serve` has for a scored model: modes and ways of answering are asked for in requests."""
    return model.partition(":")[0].partition("+")[0]


def p_value(value: float) -> str:
    """`0.031` or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def gap_name(one: GapChange) -> str:
    """`long gap` or `large gap`."""
    return GAPS[one.base.purpose]


def shown(one: Comparison | GapChange | StepsChange) -> str:
    """`difference shown` or `no difference shown`, with the corrected p where the interval alone would leave out 0."""
    return "difference shown" if one.is_shown else f"no difference shown{correction(one)}"


def correction(one: Comparison | GapChange | StepsChange) -> str:
    """Why a difference is not shown although its interval leaves out 0."""
    is_clear = one.is_shown or one.interval.covers(0.0)
    return "" if is_clear else f" (Holm-corrected p = {p_value(one.p_adjusted)})"
