"""The JSON schema of `kspacesr-rt bench -o`: it takes what is written, and refuses what is not."""

import copy
import dataclasses
import json
from typing import get_args

import jsonschema
import pytest
from repository import ROOT

from kspacesr_rt.bench.run.benchmark import BenchResult
from kspacesr_rt.bench.run.environment import environment
from kspacesr_rt.bench.run.plans import RUNNABLE, RowPlan
from kspacesr_rt.bench.run.roofline import RooflineGroup
from kspacesr_rt.bench.run.rows import FAILED, OK, SCHEMA, UNSTABLE, WRONG, BenchRow, Latency
from kspacesr_rt.bench.run.scaling import Scaling, ScalingPoint
from kspacesr_rt.model.spec import Lowering, Precision
from kspacesr_rt.quality.metrics import CONVENTIONS, Quality
from kspacesr_rt.system.machine_conditions import conditions, snapshot

RESULTS = ROOT / "bench" / "results"
DOCUMENT = json.loads((RESULTS / "schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(DOCUMENT)
STORED = [
    path.name
    for path in sorted(RESULTS.glob("*.json"))
    if "gemm_flop_per_s" in json.loads(path.read_text())
]
PLAN = RowPlan(contestant="ort-cpu", model="x2-fast", lowering="gemm")


def full_row():
    """Make a row with a figure in every field, as the dataclass has them today."""
    values = {
        "plan": PLAN,
        "status": OK,
        "latency": Latency(p50_s=0.1, p90_s=0.2, p95_s=0.2, p99_s=0.3, calls=70, rounds=7),
        "quality": Quality(mae=0.01, psnr_db=36.8, ssim=0.95),
        "tissue": Quality(mae=0.02, psnr_db=33.8, ssim=0.94),
        "roofline": (
            RooflineGroup(group="fft", flop=1e9, bytes=1e6, seconds=0.01),
            RooflineGroup(
                group="conv",
                flop=1e10,
                bytes=1e8,
                seconds=0.1,
                peak_share=0.9,
                bandwidth_share=0.1,
                bound="compute",
            ),
        ),
        "pareto": True,
    }
    kinds = {"float | None": 0.5, "int | None": 2**20}
    for item in dataclasses.fields(BenchRow):
        if item.name not in values and item.type in kinds:
            values[item.name] = kinds[item.type]
    return BenchRow(**values)


def full_result():
    """Make what a run with every option writes."""
    point = ScalingPoint(axis="matrix", value=64, backend="ort-cpu", model="x2-fast")
    measured = dataclasses.replace(point, seconds_per_slice=0.01, ratio=2.0, fft_share=0.1)
    stage = {"name": "run", "busy_s": 1.0, "workers": 1, "utilisation": 0.5}
    result = BenchResult(
        rows=(
            full_row(),
            BenchRow(plan=PLAN, status=FAILED, reason="no such kernel"),
            dataclasses.replace(full_row(), status=WRONG, reason="12.0 dB from PyTorch fp32"),
            dataclasses.replace(full_row(), status=UNSTABLE, quality=None, fft_share=None),
        ),
        peaks={"fp32": 1.7e11},
        environment={**environment(), **conditions(snapshot(), threads=1)},
        memory_bytes_per_s=1.2e10,
        stages={"wall_s": 2.0, "bottleneck": "run", "stages": [stage]},
        command="kspacesr-rt bench",
        data="4 slices of the shipped sample",
        scaling=(Scaling(points=(point, measured), exponents={"matrix": 2.1}),),
    )
    return json.loads(json.dumps(result.to_dict(), allow_nan=False))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)


@pytest.mark.parametrize("name", STORED)
def test_stored_results_validate(name):
    """What the README quotes is of the format that is promised."""
    VALIDATOR.validate(json.loads((RESULTS / name).read_text()))


def test_there_are_stored_results():
    assert {"runtimes.json", "seed-shape.json"} <= set(STORED)


def test_what_is_written_today_validates():
    """A field that is added or renamed must be added to the schema: here it shows."""
    written = full_result()
    VALIDATOR.validate(written)
    assert written["schema"] == SCHEMA == DOCUMENT["properties"]["schema"]["const"]


def test_every_key_is_described_with_its_unit():
    """A reader of the file has the schema and nothing else."""
    row = DOCUMENT["$defs"]["row"]["properties"]
    assert all("description" in one or "$ref" in one for one in row.values())
    timed = [name for name in row if name.endswith("_s") and not name.endswith("per_s")]
    assert timed
    assert all("Seconds" in row[name]["description"] for name in timed)


def test_names_are_those_of_the_code():
    """A lowering, precision or convention that is new must be known here, too."""
    plan = DOCUMENT["$defs"]["plan"]["properties"]
    assert set(plan["lowering"]["enum"]) == {"", *get_args(Lowering)} - {"none"}
    assert set(plan["precision"]["enum"]) == set(get_args(Precision))
    assert {pair[0] for rows in RUNNABLE.values() for pair in rows} <= set(plan["lowering"]["enum"])
    assert set(DOCUMENT["properties"]["convention"]["enum"]) == set(CONVENTIONS)


def damaged(path, value):
    """Return a whole result with one value put elsewhere, or taken out."""
    result = full_result()
    place = result
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("schema",), KeyError),
        (("rows",), []),
        (("rows",), KeyError),
        (("convention",), "best"),
        (("gemm_flop_per_s", "fp32"), -1.0),
        (("environment", "date"), "yesterday"),
        (("environment", "packages"), KeyError),
        (("environment", "hostname"), "scanner-7"),
        (("rows", 0, "plan", "batch"), 0),
        (("rows", 0, "plan", "lowering"), "fft"),
        (("rows", 0, "plan", "speed"), "fast"),
        (("rows", 0, "status"), "fine"),
        (("rows", 0, "latency"), None),
        (("rows", 0, "latency", "p50_s"), 0.0),
        (("rows", 0, "latency", "p50_s"), "12 ms"),
        (("rows", 0, "latency", "calls"), 1.5),
        (("rows", 0, "ratio"), 0.0),
        (("rows", 0, "ratio"), KeyError),
        (("rows", 0, "quality", "ssim"), 1.2),
        (("rows", 0, "quality", "psnr_db"), KeyError),
        (("rows", 0, "pareto"), 1),
        (("rows", 0, "typo"), 1.0),
        (("rows", 1, "reason"), ""),
        (("rows", 1, "ratio"), 2.0),
        (("scaling", 0, "points", 0, "axis"), "time"),
        (("notes",), "none"),
    ],
)
def test_damaged_results_are_refused(path, value):
    """Wrong types, impossible figures, missing keys and keys nobody declared."""
    assert VALIDATOR.is_valid(full_result())
    assert not VALIDATOR.is_valid(damaged(path, value))


def test_an_optional_key_is_declared_in_one_place():
    """As the schema says of itself: adding to that place, and nowhere else, is enough."""
    extended = copy.deepcopy(DOCUMENT)
    for place, key in (
        ("optional_of_a_row", "watts"),
        ("optional_of_a_result", "weather"),
        ("optional_of_an_environment", "governor"),
    ):
        extended["$defs"][place]["properties"][key] = {"type": "number"}
    result = full_result()
    result["weather"] = result["rows"][0]["watts"] = result["environment"]["governor"] = 1.0
    assert not VALIDATOR.is_valid(result)
    assert jsonschema.Draft202012Validator(extended).is_valid(result)
