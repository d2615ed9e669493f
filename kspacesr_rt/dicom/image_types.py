"""Read from the words of Image Type what a picture is: an image of k-space, its phase, or a map.

Value 3 is a defined term only in part (PS3.3 C.8.3.1.1.1, C.8.13.3.1.1, C.8.16.1.3 and .4); the
values behind it are each scanner's own. The words here are those of the Standard and of the
conformance statements of Siemens, GE, Philips, Canon, Hitachi, United Imaging and their consoles.
Words come in capitals, underscores read as blanks: see `attributes.image_type`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

_PHASE: Final = frozenset(
    {"P", "R", "I", "PHASE", "REAL", "IMAGINARY", "VELOCITY"}
    | {"PHASE MAP", "VELOCITY MAP", "PHASE SUBTRACT"}
)
_PHILIPS_COMPONENT: Final = re.compile(r"(SW )?[PRI] ")
"""``P_FFE``, ``R_IR``, ``I_SE``, ``SW_P_FFE``: phase, real, imaginary."""

_MAP_TOKENS: Final = frozenset(
    {
        # diffusion
        *("ADC", "EADC", "FA", "COLFA", "CFA", "GFA", "TENSOR", "KURTOSIS", "IVIM"),
        # perfusion and dynamic contrast
        *("CBF", "CBV", "MTT", "TTP", "TMAX", "CTH", "RELCBF", "RELCBV", "RELCMTT", "RELMTT"),
        *(
            "RELTTP",
            "RELCCBV",
            "RCBF",
            "RCBV",
            "RMTT",
            "RTTP",
            "RCBVCORR",
            "RCBVUNCORR",
            "PBP",
            "GBP",
            "KTRANS",
        ),
        *("KEP", "IAUC", "IAUGC", "IAUC60", "AREACURV", "BREVENH", "RELENH", "MAXENH"),
        *("MAXRELENH", "WASHIN", "WASHOUT", "PEI", "MIPT", "RLEAKAGE", "OEF", "CMRO2", "RCMRO2"),
        # relaxation, fat, iron, susceptibility, fields, stiffness
        *("R2STAR", "T2STARMAP", "T1RHO", "FATFRAC", "FATFRACTION", "PDFF", "FATPERCENT"),
        *("QSM", "FIELDMAP", "STIFFNESS", "STIFF", "ELASTOGRAM", "ECV", "QMAP", "SYNTHETIC"),
        # statistics
        *("TTEST", "ZSCORE", "STDDEV", "GLM", "SPM", "PVALUE", "NEI"),
        *("CONFIDENCE", "UNCERTAINTY", "PROBABILITY"),
        # drawings
        *("GRAPH", "HISTOGRAM", "CHART", "PLOT"),
        # projections, reformats and pictures of the console
        *("MIP", "MINIP", "MNIP", "MAXIP", "AVGIP", "AIP", "CPR", "VRT", "SSD", "REFORMATTED"),
        "CURVED",
        *("REFORMAT", "SCREENSAVE", "SCREENSHOT", "SCREENCAPTURE", "FUSED", "FUSION"),
        *("PASTED", "POSDISP", "VOLREN", "VXTL", "COLLAGE"),
        *("SEGMENTATION", "SEGMENTED"),
        # differences
        *("SUB", "SUBTRACT", "SUBTRACTION", "SUBTRACTED"),
    }
)
"""Whatever else a word holds: ``MIP_SAG``, ``ADC_800``, ``MNIP``."""
_MAP_PHRASES: Final = (
    *("EXP ADC", "EXPONENTIAL ADC", "DIFFUSION ANISO", "DIFFUSION ATTNTD", "CALC BVALUE"),
    *("WASH IN", "WASH OUT", "R2 STAR", "FAT FRACTION", "FAT FRAC", "FAT PERCENT"),
    *("WATER FRACTION", "WATER FRAC", "T TEST", "Z SCORE", "STD DEVIATION", "STD DEV"),
    *("MAX IP", "MIN IP", "AVG IP", "MEAN IP", "PROJECTION IMAGE", "CURVED MPR", "VOLUME RENDER"),
    *("VOLUME RENDERING", "SURFACE RENDER", "SCREEN SAVE", "SCREEN CAPTURE", "SCREEN SHOT"),
    *("SECONDARY CAPTURE", "MODULUS SUBTRACT", "CSA REPORT", "CSA BLACK IMAGE"),
    *("BRAIN MASK", "MR ERROR MESSAGE", "M MODE", "DELTA B0"),
)
_MAPS_IF_DERIVED: Final = frozenset(
    {
        # Scanners write ORIGINAL\PRIMARY\MPR on plain acquisitions: there, MPR says nothing.
        *("MPR", "MPR THICK", "MPR RANGES", "CSA MPR", "PROCESSED", "REPORT"),
        *("FF", "FP", "WF", "R1", "R2", "RHO", "T0", "B1", "CHI", "SUSCEPTIBILITY", "WAVE"),
        *("RA", "VR", "MD", "AD", "RD", "MK", "DEC", "LEAKAGE", "T1 VALUES", "T2 VALUES"),
        *("WIN", "WOUT", "WI", "WO", "SER", "MSI", "MSD", "ATT", "BAT", "DELAY", "AUC", "VE", "VP"),
        *("DIVISION", "DIV", "MULTIPLICATION", "MAXIMUM", "MINIMUM", "VARIANCE", "CORRELATION"),
        *("EXP", "EXPONENTIAL", "LOG", "MASK", "K2", "COV", "MYC", "PROC", "CURVE"),
        *("RESIDUAL", "RESIDUALS", "ERROR", "QUALITY", "DB0"),
    }
)
"""Words that mean something harmless, or nothing, on an image that is as it was acquired."""
_CONTRASTS: Final = frozenset({"T1", "T2", "T2 STAR", "T2STAR", "PD", "PROTON DENSITY"})
"""In Enhanced MR value 3 is the weighting, and value 4 what was computed (C.8.13.3.1.1): a derived
image that has one behind value 3 is a map of it. In classic MR value 3 is the kind of picture
(C.8.3.1.1.1 knows T1 MAP, and no weighting), so a derived one that is called T2_STAR is a map as
well, unless what follows says that something else was done to a weighted image."""
_KEEPS_CONTRAST: Final = frozenset(
    {"RESAMPLED", "FILTERED", "MASKED", "MEAN", "AVERAGE", "ADDITION", "ADD", "COMPOSED", "MOCO"}
)
"""Value 4 of images that are weighted as their sources are (C.8.16.1.4); consoles have more."""
_MULTI_FRAME_MAPS: Final = frozenset(
    {"DIVISION", "MAXIMUM", "MINIMUM", "QUANTITY", "TEMPERATURE", "MULTIPLICATION"}
)
"""Frame Type values 3 and 4 of computed pictures (C.8.13.3.1.1, C.8.16.1.4)."""


def shows_phase(words: Sequence[str]) -> bool:
    """Return whether the words name a phase, velocity, real or imaginary image."""
    return any(word in _PHASE or _PHILIPS_COMPONENT.match(word) for word in words[2:])


def shows_map(words: Sequence[str], *, multi_frame: bool = False) -> bool:
    """Return whether the words name a map, a projection, a reformat or a difference.

    Parameters
    ----------
    words
        Image Type, or Frame Type.
    multi_frame
        Whether it is Enhanced MR that says so.
    """
    derived = words[:1] == ["DERIVED"]
    flavours = [_plain(word) for word in words[2:]]
    return (
        any(_names_map(word) for word in flavours)
        or (derived and any(word in _MAPS_IF_DERIVED for word in flavours))
        or (derived and any(word in _CONTRASTS for word in flavours[1:]))
        or (derived and not multi_frame and _names_contrast_alone(flavours))
        or (derived and "B0" in flavours and "DIFFUSION" not in flavours)  # the field, not b = 0
        or (multi_frame and any(word in _MULTI_FRAME_MAPS for word in flavours))
    )


@lru_cache(maxsize=256)
def _plain(word: str) -> str:
    """Return a word with single blanks where it has other signs: ``T2*`` is ``T2 STAR``."""
    return re.sub(r"[^A-Z0-9]+", " ", word.replace("*", " STAR ")).strip()


def _names_contrast_alone(flavours: Sequence[str]) -> bool:
    return flavours[:1] != [] and flavours[0] in _CONTRASTS and _KEEPS_CONTRAST.isdisjoint(flavours)


@lru_cache(maxsize=256)
def _names_map(word: str) -> bool:
    return (
        word.endswith("MAP")
        or not _MAP_TOKENS.isdisjoint(word.split())
        or any(f" {phrase} " in f" {word} " for phrase in _MAP_PHRASES)
    )
