"""Ask an inference server for the known answers of its models (KServe's protocol v2 over HTTP).

Exit code 0 if every answer agrees, 1 if one does not, 2 if the server cannot be asked. Needs NumPy.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS = Path(__file__).with_name("known_answers.npz")


def infer(url: str, model: str, lr: np.ndarray[Any, Any], timeout_s: float) -> Any:
    """Return what a model gives for a batch of slices.

    Parameters
    ----------
    url
        Of the server, such as ``http://127.0.0.1:8000``.
    model
        Its name there.
    lr
        float32, shape as in README.md.
    timeout_s
        For the whole of it.
    """
    values = np.ascontiguousarray(lr, dtype=np.float32)
    asked = {
        "inputs": [
            {
                "name": "lr",
                "shape": list(values.shape),
                "datatype": "FP32",
                "data": values.ravel().tolist(),
            }
        ],
        "outputs": [{"name": "sr"}],
    }
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v2/models/{model}/infer",
        data=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        [output] = json.load(answer)["outputs"]
    return np.asarray(output["data"], dtype=np.float32).reshape(output["shape"])


def agreement_db(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the PSNR between two results, of the range of the expected one."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return -math.inf
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    top = float(np.abs(expected).max())
    return math.inf if error == 0.0 else 10.0 * math.log10(top**2 / error)


def main() -> int:
    """Ask for each answer, print how far it agrees; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    parser.add_argument("--model", help="only this one")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one answer")
    chosen = parser.parse_args()
    with np.load(ANSWERS, allow_pickle=False) as stored:
        required = float(stored["required_db"])
        names = sorted(key.removesuffix("/lr") for key in stored.files if key.endswith("/lr"))
        if chosen.model is not None and chosen.model not in names:
            print(f"no answer of '{chosen.model}' is known; known: {', '.join(names)}")
            return 2
        wrong = 0
        for name in names if chosen.model is None else [chosen.model]:
            try:
                found = infer(chosen.url, name, stored[f"{name}/lr"], chosen.timeout)
            except (OSError, HTTPException, ValueError, LookupError, TypeError) as exc:
                print(f"{name}: the server at {chosen.url} gave no answer: {exc}")
                return 2
            psnr = agreement_db(found, stored[f"{name}/sr"])
            print(f"{name}: {psnr:.1f} dB against the known answer ({required:.0f} required)")
            wrong += psnr < required
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
