"""Know which images are one patient's, without knowing who: for splits that do not leak."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from kspacesr_rt.errors import TrainingDataError

_IN_NAMES = re.compile(r"sub-[A-Za-z0-9]+|(?:patient|subject|subj|pat)[-_]?[0-9]+", re.IGNORECASE)
"""How data sets name a patient: BIDS' ``sub-01``, or a word and a number."""


class _OfAPatient(Protocol):
    @property
    def patient(self) -> str: ...


T = TypeVar("T", bound=_OfAPatient)


def hashed_identity(identifier: str) -> str:
    """Return a patient's identity as SHA-256, so that none stays in memory by name.

    Notes
    -----
    This hides a name from a log, not from somebody who wants it: identifiers are few enough to
    try them all. It belongs nowhere where the images themselves do not.
    """
    return hashlib.sha256(identifier.encode("utf-8", "surrogateescape")).hexdigest()


def patient_of_file(path: Path, root: Path) -> str:
    """Return the identity of the patient that a file's name, or its folders', points to.

    Parameters
    ----------
    path
        A file that says nothing about the patient inside.
    root
        The folder that was named by the user, or `path` itself. Folders above it are not asked.

    Returns
    -------
        Hash of ``sub-01``, ``patient01`` or the like: from the file's name, else from the
        outermost folder below `root` that has one, else from `root`; without any, of the whole
        file name less its ending, so that ``T1.nii`` of two folders is taken for one patient.
    """
    top = path.parent if path == root else root
    folders = path.parent.relative_to(top).parts
    for name in (path.name, *folders, top.name):
        if (found := _IN_NAMES.search(name)) is not None:
            return hashed_identity(found[0].lower())
    return hashed_identity(Path(path.name.removesuffix(".gz")).stem)


def split_by_patient(
    series: Sequence[T], *, share: float, random_state: int
) -> tuple[list[T], list[T]]:
    """Hold out whole patients, so that nobody is trained on and judged on.

    Parameters
    ----------
    series
        Volumes or series; those whose `patient` is empty count as one patient.
    share
        Share of the patients to hold out, above 0 and below 1.
    random_state
        Chooses which. The order of `series` does not matter, and a patient that is added moves
        few others to the other side.

    Returns
    -------
        What to train on and what is held out, at least one patient each, in the order given.

    Raises
    ------
    TrainingDataError
        If there are fewer than two patients, or `share` is no share.
    """
    if not 0.0 < share < 1.0:
        raise TrainingDataError(f"cannot hold out a share of {share} of the patients")
    patients = {one.patient for one in series}
    if len(patients) < 2:
        raise TrainingDataError(
            f"{len(series)} series of {len(patients)} patient: none can be held out",
            hint="name folders to validate on, or tell patients apart in the names: sub-01_T1.nii",
        )
    drawn = sorted(patients, key=lambda one: hashed_identity(f"{random_state}:{one}"))
    held = set(drawn[: min(max(1, round(share * len(drawn))), len(drawn) - 1)])
    return (
        [one for one in series if one.patient not in held],
        [one for one in series if one.patient in held],
    )
