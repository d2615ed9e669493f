"""What is declared of a network that is not ours, in words: and that the rest is not.

What a network of ours promises follows from how it is made. Of one that others made nothing is
known but what its maker declared, which is checked on every slice; nothing else is claimed.
"""

from __future__ import annotations

from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.spec import LARGEST, ModelSpec

NOT_DECLARED = "not declared"
MOST_SHOWN = 8
"""Matrices that a line names, of those that were tried."""


def contracts_of(spec: ModelSpec) -> dict[str, str]:
    """Return each contract with what is declared, for networks that are not ours; else nothing."""
    if spec.is_own:
        return {}
    low_high = " to ".join(f"{limit:g}" for limit in spec.output_range)
    return {
        "data consistency": NOT_DECLARED
        if spec.data_consistency == "none"
        else spec.data_consistency,
        "output grid": f"{spec.output_grid}, {spec.grid_source}",
        "output range": low_high or NOT_DECLARED,
        "homogeneity": "declared" if spec.homogeneous else NOT_DECLARED,
    }


def contract_note(spec: ModelSpec) -> str:
    """Return the clause that results of a network that is not ours carry; empty for ours."""
    if spec.is_own:
        return ""
    consistency = contracts_of(spec)["data consistency"]
    return f"network of the user's ({spec.architecture}), data consistency {consistency}"


def taken_text(spec: ModelSpec) -> str:
    """Say what a network takes, in a line."""
    if spec.input == "kspace":
        kind = f"k-space of {spec.coils} coils" if spec.coils else "k-space"
        kind += ", gives k-space" if spec.output == "kspace" else ", gives images"
    else:
        channels = f"{spec.image_channels} channel{'s' * (spec.image_channels > 1)}"
        limits = " to ".join(f"{limit:g}" for limit in spec.input_range)
        kind = f"images, {channels}" + (f", brought to {limits}" if limits else "")
    slices = "; one slice at a time" if spec.single_slice else ""
    return f"{kind}; {matrices_text(spec)}{slices}"


def matrices_text(spec: ModelSpec) -> str:
    """Say which LR matrices a network takes; of one that is not ours, at which it was proved too.

    What a network of ours takes follows from its layers.
    """
    if any(spec.fixed_matrix):
        return f"a matrix of {_size(spec.fixed_matrix)} only"
    text = "any matrix"
    if spec.matrix_multiple > 1:
        how = "by reflection" if spec.padding == "reflect" else "in k-space"
        text = f"{text}, padded {how} to multiples of {spec.matrix_multiple}"
    tried = [] if spec.is_own else tried_matrices(spec)
    if not tried:
        return text
    more = ", ..." if len(tried) > MOST_SHOWN else ""
    return f"{text} (tried {', '.join(map(_size, tried[:MOST_SHOWN]))}{more})"


def tried_matrices(spec: ModelSpec) -> list[Matrix]:
    """Return the LR matrices at which the parity gate compared a model, in its order."""
    cases = spec.parity.get("cases", ())
    found: dict[Matrix, None] = {}
    for case in cases if isinstance(cases, list) else ():
        matrix = case.get("matrix") if isinstance(case, dict) else None
        if (
            isinstance(matrix, list | tuple)
            and len(matrix) == 2
            and all(type(one) is int and 0 < one <= LARGEST["matrix"] for one in matrix)
        ):
            found[matrix[0], matrix[1]] = None
    return list(found)


def _size(matrix: Matrix) -> str:
    return f"{matrix[0]} x {matrix[1]}"


def require_images(spec: ModelSpec) -> None:
    """Refuse a network of k-space where images of a scanner are to be super-resolved.

    Raises
    ------
    InputError
        If it takes k-space, or gives it.
    """
    if spec.input == "kspace":
        raise InputError(
            f"model '{spec.name}' takes k-space, and image files hold magnitudes without a phase",
            hint="give it measured k-space in Python: kspacesr_rt.load(MODEL)(kspace)",
        )
