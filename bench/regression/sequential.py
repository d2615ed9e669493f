"""Decide whether a ratio fell below a line, on a machine that other work disturbs.

Each round gives one ratio. After a fixed number of rounds an interval for their median is looked
at: wholly below the line is slower, wholly above is not, anything else takes more rounds, up to a
limit. The interval is made of order statistics: it holds for any distribution of the rounds, so one
disturbed round moves it by one place and not by its size [1]_. Looking several times would raise
the chance of a wrong verdict; `LOOK_CONFIDENCE` shares the 5 % out over the looks (Bonferroni).

References
----------
.. [1] David and Nagaraja, Order Statistics, 3rd ed. 2003, section 7.1: distribution-free
   confidence intervals for quantiles
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LOOKS = (8, 16, 24, 32)
"""Rounds after which an interval is looked at; eight are the fewest that reach `LOOK_CONFIDENCE`,
and after the last one what is undecided stays so."""
CONFIDENCE = 0.95
"""That no look errs, for a ratio whose median lies on the line."""
LOOK_CONFIDENCE = 1.0 - (1.0 - CONFIDENCE) / len(LOOKS)
"""Of the interval at each look."""
SLOWER, FINE, UNDECIDED = "slower", "ok", "undecided"


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the narrowest pair of order statistics that holds the median so surely.

    Parameters
    ----------
    values
        Independent draws of one distribution, in any order.
    confidence
        Between 0 and 1.

    Returns
    -------
        Lower and upper end; minus and plus infinity where there are too few values.
    """
    n = len(values)
    allowed = (1.0 - confidence) / 2.0
    below, tail = 0, 0.0
    # P(at most k of n values lie below the median) is binomial with probability one half.
    while (tail := tail + math.comb(n, below) * 0.5**n) <= allowed:
        below += 1
    if below == 0:
        return -math.inf, math.inf
    ordered = sorted(values)
    return ordered[below - 1], ordered[n - below]


def rounds_at_look(rounds: int) -> int:
    """Return how many of so many rounds the latest look took; 0 before the first."""
    return max((look for look in LOOKS if look <= rounds), default=0)


def verdict(ratios: Sequence[float], line: float) -> str:
    """Tell whether the median ratio lies below a line: `SLOWER`, `FINE` or `UNDECIDED`.

    Parameters
    ----------
    ratios
        One a round, in the order they were measured; what came after the latest look is left out.
    line
        What the ratio must not fall below.
    """
    for look in (one for one in LOOKS if one <= len(ratios)):
        low, high = median_interval(ratios[:look], LOOK_CONFIDENCE)
        if high < line:
            return SLOWER
        if low >= line:
            return FINE
    return UNDECIDED
