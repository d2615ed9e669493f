"""What a target's C-STORE response means: stored, to be offered again, or refused for good.

=========================== ======================================================== ===========
status                      says                                                     taken as
=========================== ======================================================== ===========
0000                        Success                                                  stored
0001, 0107, 0116, Bxxx      Warning (PS3.7 C; B000, B006, B007: PS3.4 B.2.3)         stored
A7xx, 0213                  Refused: out of resources; resource limitation           later
0210                        Duplicate invocation: of a message, not of the instance  later
Cxxx                        Cannot understand: also said by archives in trouble      some tries
0110                        Processing failure                                       some tries
other A, FE00, FFxx, others not foreseen for C-STORE                                 some tries
01xx, 02xx, A8xx, A9xx      the instance, its class or the node is not wanted        refused
=========================== ======================================================== ===========
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)
MAX_TRIES: Final = 5
"""Offers of an instance whose refusal may pass."""
_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)})
_LATER: Final = frozenset({0x0210, 0x0213, *OUT_OF_RESOURCES})
_SOME_TRIES: Final = frozenset({0x0110})
_NEVER: Final = frozenset({*range(0x0100, 0x0300), *range(0xA800, 0xAA00)})


class Meaning(Enum):
    """What follows from an answer."""

    stored = auto()
    later = auto()
    """Offered again for as long as it takes; the target as a whole is not able now."""
    some_tries = auto()
    """Offered `MAX_TRIES` times in all."""
    refused = auto()
    """No offer will ever be taken."""


def meaning_of(status: int) -> Meaning:
    """Return what a C-STORE response's status means for the instance."""
    if status == 0 or status in _WARNINGS:
        return Meaning.stored
    if status in _LATER:
        return Meaning.later
    if status in _NEVER and status not in _SOME_TRIES:
        return Meaning.refused
    return Meaning.some_tries
