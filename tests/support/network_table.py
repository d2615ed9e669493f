"""Export every network of the zoo, and write the table of what came of it.

Run it as ``python tests/support/network_table.py ROWS.jsonl [WORD ...]``. Each network is exported,
and its file run, in a process of its own. The parity stated is the worst of all matrices and
batches, measured here against PyTorch in fp32, not taken from the export. Rows that stand in
ROWS.jsonl are not measured again. With words, only networks are tried whose name holds one of them,
or whose package is one; without, the table of `docs/reference/networks.md` is written.
``ROWS.jsonl --write`` writes it of the rows that are there; others stay as the page has them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import network_zoo
import numpy as np
from repository import ROOT

PAGE = ROOT / "docs" / "reference" / "networks.md"
BEGIN, END = "<!-- networks: written by tests/support/network_table.py -->", "<!-- networks end -->"
MATRICES = ((64, 64), (80, 80), (45, 37), (48, 72))
"""LR: two even ones, an odd one, a rectangular one."""
BATCHES = (1, 3)
BACKENDS = ("ort-cpu", "openvino")
REQUIRED_DB = 100.0
PATIENCE_S = 1500
LONGEST_REASON = 160


def images(n, matrix):
    """Return smooth images with texture, as different as slices of a study."""
    rng = np.random.default_rng(sum(matrix) + n)
    y, x = (np.linspace(-1, 1, length)[..., None] for length in matrix)
    made = []
    for slice_number in range(n):
        radius = np.hypot(y / 0.8, x.T / 0.7) + 0.05 * slice_number
        body = 1 / (1 + np.exp(12 * (radius - 0.8)))
        made.append(body * (0.6 + 0.2 * np.cos(9 * y) * np.sin(7 * x.T) + 0.1 * rng.random(matrix)))
    return np.stack(made)[:, None].astype(np.float32)


def reference(net, batch, spec):
    """Return what PyTorch makes of a batch; padded by reflection where the network must have it."""
    import torch

    from kspacesr_rt.model.padding import reflection

    matrix = batch.shape[-2:]
    wide = spec.network_matrix(matrix)
    grid, scale = spec.sample_grid, spec.upscale
    first, start = zip(
        *(reflection(n, m, scale, grid) for n, m in zip(matrix, wide, strict=True)), strict=True
    )
    around = [(a, m - n - a) for a, n, m in zip(first, matrix, wide, strict=True)]
    padded = np.pad(batch, [(0, 0), (0, 0), *around], mode="reflect")
    with torch.inference_mode():
        # One by one: some networks choose by the whole batch.
        result = np.concatenate([net(torch.from_numpy(one[None])).numpy() for one in padded])
    rows, columns = (slice(s, s + scale * n) for s, n in zip(start, matrix, strict=True))
    return result[..., rows, columns]


def parity(found, expected):
    error = float(np.sqrt(np.mean((found.astype(float) - expected.astype(float)) ** 2)))
    return float("inf") if error == 0 else 20 * float(np.log10(np.abs(expected).max() / error))


def measured(network):
    """Export a network, run its file, and return what the table says of it."""
    from kspacesr_rt.export.module_export import export_module
    from kspacesr_rt.model.binding import bind
    from kspacesr_rt.model.file import load_model
    from kspacesr_rt.runtime.backends import BackendOptions, open_backend

    net = network()
    row = {"id": network.id, "exported": False, "parity": {}, "matrices": 0, "why": ""}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export_module(
            network, path, upscale=network.upscale, name="zoo", fixed_matrix=network.fixed
        )
        row["exported"] = True
        model = load_model(path)
        spec = model.spec
        fixed = tuple(spec.fixed_matrix)
        row["fixed"] = list(fixed) if any(fixed) else None
        row["multiple"], row["single"] = spec.matrix_multiple, spec.single_slice
        matrices = [fixed] if any(fixed) else MATRICES
        for backend in BACKENDS:
            found = []
            for matrix in matrices:
                with open_backend(
                    backend, bind(model, matrix), BackendOptions(threads=1)
                ) as opened:
                    for n in BATCHES:
                        batch = images(n, matrix)
                        found.append(parity(opened.run(batch), reference(net, batch, spec)))
            row["parity"][backend] = min(found)
        row["matrices"] = len(matrices)
    return row


def one(name):
    """Print what is measured of one network, as JSON on the last line."""
    network = next(one for one in network_zoo.networks() if one.id == name)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            row = measured(network)
        except Exception as exc:
            hint = getattr(exc, "hint", None)
            text = " ".join(f"{exc}".split())
            row = {"id": name, "exported": False, "why": text, "hint": hint}
            row["kind"] = type(exc).__name__
    print(json.dumps(row))


def tried(network):
    """Measure a network in a process of its own."""
    if (reason := network.why_not()) is not None:
        return {"id": network.id, "exported": False, "why": reason}
    command = [sys.executable, __file__, "--one", network.id]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ}
        )
    except subprocess.TimeoutExpired:
        why = f"not done after {PATIENCE_S} s at a load of {os.getloadavg()[1]:.0f}"
        return {"id": network.id, "exported": False, "why": f"{why} on {os.cpu_count()} cores"}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        tail = done.stderr.strip().splitlines()[-1:]
        return {"id": network.id, "exported": False, "why": f"exit {done.returncode}: {tail}"}


def passed(row):
    found = row.get("parity", {})
    return row["exported"] and len(found) == len(BACKENDS) and min(found.values()) >= REQUIRED_DB


def _short(why):
    text = why.replace("|", "/")
    return (
        text
        if text.endswith(" ...") or len(text) <= LONGEST_REASON
        else f"{text[:LONGEST_REASON]} ..."
    )


def line(row):
    """Return a row of the page's table."""
    family, _, name = row["id"].partition(": ")
    if not row.get("tried", True):
        return f"| {family} | {name} | not tried |  |  |  |  |"
    if not row["exported"]:
        return f"| {family} | {name} | no |  |  |  | {_short(row['why'])} |"
    figures = [
        f"{math.floor(row['parity'][one])}" if one in row["parity"] else "does not run"
        for one in BACKENDS
    ]
    if row["fixed"]:
        which = "{} x {} only".format(*row["fixed"])
    else:
        which = "any" if row["multiple"] == 1 else f"any, padded to multiples of {row['multiple']}"
    remark = "slice by slice" if row["single"] else ""
    return f"| {family} | {name} | yes | {figures[0]} | {figures[1]} | {which} | {remark} |"


def row_of(line):
    """Return a row as `line` has written it; its figures are whole dB."""
    family, name, exported, *figures, which, remark = (
        cell.strip() for cell in line.strip().strip("|").split(" | ")
    )
    row = {"id": f"{family}: {name}", "exported": exported == "yes", "why": remark}
    if exported == "not tried":
        return {**row, "tried": False}
    numbers = [int(one) for one in re.findall(r"\d+", which)]
    return {
        **row,
        "parity": {
            one: float(figure)
            for one, figure in zip(BACKENDS, figures, strict=True)
            if figure.lstrip("-").isdigit()
        },
        "fixed": numbers if which.endswith(" only") else None,
        "multiple": numbers[0] if which.startswith("any, padded") else 1,
        "single": remark == "slice by slice",
    }


def page_rows():
    """Return the rows that the page has, by their network."""
    text = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    lines = [one for one in text.splitlines() if one.startswith("| ")][2:]
    return {row["id"]: row for row in map(row_of, lines)}


def page_of(rows):
    """Return the generated part of the page."""
    tried = [row for row in rows if row.get("tried", True)]
    n_one_matrix = sum(passed(row) and bool(row["fixed"]) for row in tried)
    heading = (
        f"{sum(map(passed, tried))} of {len(tried)} networks export, and agree with PyTorch at "
        f"{REQUIRED_DB:.0f} dB or better on both runtimes, {n_one_matrix} of them at one "
        f"matrix only; {len(rows) - len(tried)} more were not tried yet.\n\n"
        "| from | network | exported | ort-cpu, dB | openvino, dB | LR matrix | remark |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    return heading + "\n".join(map(line, rows)) + "\n"


def _concerns(word, network):
    """Say whether a word is a network's family, or a part of its name."""
    return word == network.family.lower() or word in network.name.lower()


def main(words):
    if words[0] == "--one":
        one(words[1])
        return
    kept, words = Path(words[0]), words[1:]
    lines = kept.read_text().splitlines() if kept.exists() else []
    rows = {row["id"]: row for row in map(json.loads, lines)}
    chosen = [
        network
        for network in network_zoo.networks()
        if not words or any(_concerns(word.lower(), network) for word in words)
    ]
    only_write = words == ["--write"]
    rows = page_rows() | rows if only_write else rows
    for network in network_zoo.networks() if only_write else ():
        rows.setdefault(
            network.id, {"id": network.id, "exported": False, "tried": False, "why": ""}
        )
    words, chosen = ([], network_zoo.networks()) if only_write else (words, chosen)
    for network in chosen:
        if network.id not in rows:
            rows[network.id] = tried(network)
            with kept.open("a") as file:
                file.write(json.dumps(rows[network.id]) + "\n")
            print(line(rows[network.id]), flush=True)
    found = [rows[network.id] for network in chosen]
    print(f"{sum(map(passed, found))} of {len(found)}")
    if not words:
        text = PAGE.read_text()
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        PAGE.write_text(f"{head}{BEGIN}\n\n{page_of(found)}\n{END}{tail}")


if __name__ == "__main__":
    main(sys.argv[1:])
