"""Put what was measured, as result files have it, into the model files that it is of.

Run: ``python -m kspacesr_rt.bench.quality.stamp_results bench/results/quality.json
bench/results/proofs.json bench/results/trust.json FOLDER``

Models are known by the digest of their weights, so figures never reach another model of the same
name; a model without figures stays as it is, and so do figures that a result does not have.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kspacesr_rt.bench.quality.cards import write_card
from kspacesr_rt.bench.quality.evaluation import QualityRow
from kspacesr_rt.model.file import load_model
from kspacesr_rt.model.limits import ModelLimits
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.quality.metrics import Quality


def stamp_stored(result: dict[str, Any], folder: Path) -> list[str]:
    """Stamp every model file of a folder that a result has figures of, and rewrite its card.

    Parameters
    ----------
    result
        What ``kspacesr-rt evaluate --json`` printed, with or without ``--proofs`` and ``--cards``,
        or ``kspacesr-rt trust --json``.
    folder
        Of model files.

    Returns
    -------
        Names of the models that were stamped.
    """
    stamped = []
    rows = [_row(row) for row in result.get("rows", ())]
    names = {weights: name for name, weights in result.get("weights", {}).items()}
    names |= {one["weights_sha256"]: name for name, one in result.get("proofs", {}).items()}
    for path in sorted(folder.glob("*.onnx")):
        spec = load_model(path).spec
        name = names.get(spec.provenance.weights_sha256)
        if name is None:
            continue
        own = rows if any(row.method == name == spec.name for row in rows) else None
        stated = result.get("limits", {}).get(name, {}).get("limits")
        limits = None if stated is None else limits_of(stated)
        figures = result.get("proofs", {}).get(name, {}).get("figures")
        trust = result.get("trust", {}).get(name)
        calibration = None if trust is None else TrustCalibration(**trust)
        write_card(path, own, None, limits, figures, calibration)
        stamped.append(name)
    return stamped


def merged(result: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """Return a stored result in which the models of a newer one have the newer figures.

    Parameters
    ----------
    result
        What ``kspacesr-rt evaluate --json`` printed, or a part of it.
    newer
        The same of fewer models on the same data; what `result` has no place for is left out.

    Returns
    -------
        A copy; its ``environments`` name those models' own beside the one of the others.
    """
    names = set(newer["weights"])
    found = dict(result)
    if "rows" in result:
        rows = [row for row in result["rows"] if row["method"] not in names]
        found["rows"] = [*rows, *(row for row in newer["rows"] if row["method"] in names)]
    if "invention" in result:
        kept = [one for one in result["invention"] if one["model"] not in names]
        found["invention"] = [*kept, *newer["invention"]]
    for part in ("weights", "backends", "proofs", "limits", "trust"):
        if part in result:
            found[part] = {**result[part], **_of_kept_parts(newer.get(part, {}), result[part])}
    own = dict.fromkeys(sorted(names), newer["environment"])
    return found | {"environments": {**result.get("environments", {}), **own}}


def _of_kept_parts(newer: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Leave out of newer entries what the stored ones of the same models do not keep."""
    return {
        name: {key: part for key, part in value.items() if key in kept[name]}
        if isinstance(value, dict) and name in kept
        else value
        for name, value in newer.items()
    }


def _row(stored: dict[str, Any]) -> QualityRow:
    """Return a row of quality that `dataclasses.asdict` made a dictionary of."""
    cropped = stored["cropped_to"]
    return QualityRow(
        **{
            **stored,
            "quality": Quality(**stored["quality"]),
            "cropped_to": None if cropped is None else tuple(cropped),
        }
    )


def limits_of(stated: dict[str, Any]) -> ModelLimits:
    """Return what `ModelLimits.to_dict` gave."""
    return ModelLimits(**{**stated, "body_parts": tuple(stated.get("body_parts", ()))})


if __name__ == "__main__":
    *results, folder = map(Path, sys.argv[1:])
    for file in results:
        done = stamp_stored(json.loads(file.read_text()), folder)
        none = "none; their weights are not those of the result"
        print(f"stamped from {file.name}: {', '.join(done) or none}")
