"""A few of many combinations, in which every two values that can meet still do."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations


def covering(cases: Sequence[Mapping[str, Hashable]], strength: int = 2) -> list[int]:
    """Choose combinations, greedily: most faults need one value, or two that meet.

    Parameters
    ----------
    cases
        The value (or its number) of each parameter, by name; the same names in every case.
    strength
        How many parameters' values must meet: 1 takes every value once, 2 every pair.

    Returns
    -------
        Positions in `cases`, ascending, the same for the same cases. Whatever values of `strength`
        parameters meet in some case, they meet in a chosen one.

    References
    ----------
    .. [1] D. R. Kuhn et al., "Software fault interactions and implications for software testing",
       IEEE Trans. Softw. Eng. 30 (2004): 418-421, doi 10.1109/TSE.2004.24
    """
    width = min(strength, min(map(len, cases), default=0))
    met = [set(combinations(sorted(case.items()), width)) for case in cases]
    missing = set().union(*met)
    chosen = []
    while missing:
        best = max(range(len(cases)), key=lambda at: (len(met[at] & missing), -at))
        missing -= met[best]
        chosen.append(best)
    return sorted(chosen)
