"""The benchmark's report: nothing is loaded, nothing is lost, no text becomes markup."""

import base64
import copy
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from result_cases import EVIL, bench_row, failed_row, picture, result
from typer.testing import CliRunner

from kspacesr_rt.bench.report.html_charts import Axis, Chart, Point, axis_over
from kspacesr_rt.bench.report.html_report import as_html
from kspacesr_rt.bench.report.markdown_report import as_markdown
from kspacesr_rt.bench.run.benchmark import BenchOptions, BenchResult
from kspacesr_rt.bench.run.model_variants import SEED_SHAPE
from kspacesr_rt.bench.run.pictures import Picture, picture_slices, pictures_of
from kspacesr_rt.bench.run.scheduler import Measured
from kspacesr_rt.bench.run.scored_slices import ScoredSlices
from kspacesr_rt.bench.run.stored_result import read_result, rows_of
from kspacesr_rt.cli import app
from kspacesr_rt.errors import InputError
from kspacesr_rt.quality.metrics import Quality

VOID = {"meta", "link", "img", "input"}
LOADING = ("src", "href", "srcset", "action", "data", "poster", "xlink:href")


class Reader(HTMLParser):
    """What a page holds; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.rows = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((dict(attributes).get("class"), []))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.texts.append(text)
        if "td" in self.open:
            self.rows[-1][1].append(text)


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(result()))
    return path


def evil():
    """Return a result with markup wherever a text can stand."""
    made = result()
    made["environment"]["cpu"] = made["data"] = made["command"] = EVIL
    made["environment"]["packages"][EVIL] = EVIL
    for row in made["rows"]:
        row["plan"] |= {"model": EVIL, "lowering": row["plan"]["lowering"] and EVIL}
        row["reason"] = EVIL
    made["rows"][1]["roofline"][0] |= {"group": EVIL, "bound": EVIL}
    made["rows"][2]["plan"]["contestant"] = made["rows"][2]["status"] = EVIL
    made["stages"]["stages"][0]["name"] = made["stages"]["bottleneck"] = EVIL
    made["pictures"][0] |= {"label": EVIL, "model": EVIL, "source": EVIL}
    for point in made["scaling"][0]["points"]:
        point |= {"model": EVIL, "backend": EVIL, "reason": EVIL}
    made["convention"] = made["environment"]["date"] = EVIL
    return made


def test_no_text_of_a_result_becomes_markup():
    """A model's name or a runtime's message may hold anything."""
    clean, dirty = Reader(as_html(result())), Reader(as_html(evil()))
    for page in (clean, dirty):
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert not any(name.startswith("on") for _, found in page.tags for name in found)
    assert sum("<script>alert(1)</script>" in text for text in dirty.texts) > 20
    assert {tag for tag, _ in dirty.tags} <= {tag for tag, _ in clean.tags}


def test_nothing_is_loaded_from_anywhere():
    """The file is read in a clinic without network, or from a mail."""
    page = as_html(result())
    for tag, attributes in Reader(page).tags:
        for name in LOADING:
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert "style" not in attributes, "the policy forbids style attributes"
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp|WebSocket", page)


def test_the_policy_names_style_and_script_by_hash():
    """What is not in the file as it was written does not run."""
    page = as_html(result())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def table_rows(page):
    return [row for row in Reader(page).rows if row[0] and row[0].split()[0] in STATUSES]


STATUSES = ("ok", "failed", "wrong", "unstable")


def test_every_row_is_there_and_failures_say_why():
    rows = table_rows(as_html(result()))
    assert [css.split()[0] for css, _ in rows] == ["ok", "ok", "ok", "failed", "wrong", "ok"]
    texts = [" ".join(texts) for _, texts in rows]
    assert "no kernel for Conv" in texts[3]
    assert "12.0 dB from PyTorch fp32" in texts[4]
    assert "Pareto" in texts[1]
    assert sum("Pareto" in text for text in texts) == 1


def test_wrong_rows_are_in_no_chart_and_no_bar():
    """A fast wrong answer is not a result."""
    page = as_html(result())
    speed = page[page.index('id="speed"') : page.index('id="viewer"')]
    assert "exporter-graph" not in speed
    assert "5.00×" in speed  # 20 ms / 4 ms
    assert "1 more row failed" not in speed
    assert "2 more rows failed or are wrong" in speed


def test_cells_sort_by_their_raw_figures():
    """`10.0` is more than `9.5`: what a column sorts by is the figure and not its text."""
    page = as_html(result())
    table = page[page.index('id="rows"') : page.index('id="stages"')]
    heads = table[: table.index("</thead>")]
    assert heads.count('aria-sort="none"') == heads.count("<button") == 23
    second = table.split("<tr")[3]
    raw = [float(value) for value in re.findall(r'data-v="([^"]+)"', second)]
    #               batch, ratio, p50, agreement; PSNR and SSIM inside tissue, of the whole slice
    first = [1, 2.0, 0.01, 130.0, 33.5, 0.92, 36.0, 0.95]
    #                    slices/s, p90, p95, p99, MAE
    assert raw == pytest.approx([*first, 100.0, 10 / 9e2, 10 / 8e2, 10 / 7e2, 0.01])


def test_a_front_is_drawn_for_each_upscale():
    """A line from a x2 row to a x4 row would mean nothing."""
    changes = [
        {
            "ms": ms,
            "upscale": upscale,
            "pareto": True,
            "quality": Quality(mae=0.01, psnr_db=30.0, ssim=ssim),
        }
        for ms, ssim, upscale in [(4.0, 0.94, 2), (10.0, 0.95, 2), (5.0, 0.84, 4), (20.0, 0.85, 4)]
    ]
    rows = [bench_row("ort-cpu", "gemm", **one).to_dict() for one in changes]

    def fronts(rows):
        page = as_html(result(rows=rows))
        return page.count('<polyline class="front"'), page.count("Pareto front</li>")

    one, both = fronts(rows[:2]), fronts(rows)
    assert one[0] > 0
    assert both == (2 * one[0], one[1])
    assert fronts(rows[::2]) == (0, 0)  # one row each


def test_sections_without_data_are_left_out():
    bare = result()
    for key in ("stages", "scaling", "pictures", "command"):
        del bare[key]
    del bare["rows"][1]["roofline"]
    page = as_html(bare)
    for name in ("stages", "scaling", "roofline"):
        assert f'id="{name}"' not in page
        assert f'id="{name}"' in as_html(result())
    assert "Pictures were not stored" in page


def test_a_result_without_a_single_right_row_still_makes_a_page():
    page = as_html(result(rows=[failed_row("no runtime").to_dict()]))
    assert "no runtime" in page
    assert "No row has a ratio" in page
    assert '<svg class="chart' not in page.split('id="scaling"')[0]


def test_own_images_are_called_so():
    """A page with a patient's pixels must say that it holds them."""
    warning = "may identify somebody"
    assert warning not in as_html(result())
    made = result()
    made["pictures"][1]["source"] = "user"
    assert warning in as_html(made)


def test_labels_keep_clear_of_each_other_and_of_the_border():
    """Thirty marks in one place: fewer labels, none on another."""
    points = [
        Point(x=100 + i / 10, y=0.95, text="", label=f"runtime {i}", rank=i) for i in range(30)
    ]
    chart = Chart(
        width=340,
        height=380,
        x=axis_over([point.x for point in points], "ms", log=True),
        y=axis_over([0.95], "SSIM", least=0.002),
        title="t",
    )
    chart.marks(points)
    assert 3 < len(chart.labels) < 30
    for i, one in enumerate(chart.labels):
        assert chart.left <= one[0]
        assert one[2] <= chart.width
        for other in chart.labels[:i]:
            apart = one[0] >= other[2] or one[2] <= other[0]
            assert apart or one[1] >= other[3] or one[3] <= other[1]
    assert chart.svg().count('class="point"') == 30


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0.4, 230.0, True), (28.0, 41.0, True), (0.93, 0.951, False)]
)
def test_axes_have_round_ticks_inside(low, high, log):
    ticks = Axis(label="", low=low, high=high, log=log).ticks()
    assert 3 <= len(ticks) <= 9 or log
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_markdown_has_the_facts_and_keeps_cells_whole():
    text = as_markdown(result())
    for part in ("2026-11-23", "Some CPU, 2 cores", "abc1234", "slice-range1", "--budget 10"):
        assert part in text.split("| model |")[0]
    table = [line for line in as_markdown(evil()).splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len(result()["rows"])
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert not any("<script" in line for line in table)


def test_pictures_share_one_window_and_the_errors_one_scale():
    """Zero-fill that looks worse must be worse, not drawn otherwise."""
    rng = np.random.default_rng(0)
    hr = rng.random((5, 24, 20)).astype(np.float32)
    lr = np.ascontiguousarray(hr[:, ::2, ::2])
    sr = hr + np.float32(0.01)
    drawn = picture_slices(
        hr, lr, sr, model="m", labels=[f"s{i}" for i in range(5)], source="sample", white=1.0
    )
    assert [one.label for one in drawn] == ["s0", "s2", "s4"]
    one = drawn[1]
    assert pixels(one.hr) == pytest.approx(hr[2] * 255, abs=0.51)
    assert pixels(one.sr_error) == pytest.approx(0.01 / one.error_white * 255, abs=1)
    assert pixels(one.zero_fill_error).mean() > 5 * pixels(one.sr_error).mean()
    assert len({other.error_white for other in drawn}) == 1


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(float)


def test_the_command_line_names_no_folder(tmp_path):
    """A folder's name can be a patient's."""
    options = BenchOptions(
        models=("x2-fast", str(tmp_path / "own.onnx")), data=tmp_path, batches=(1, 4), threads=2
    )
    assert options.command() == (
        "kspacesr-rt bench --model x2-fast --model own.onnx --data DATA --batch 1 --batch 4 "
        "--threads 2 --budget 300"
    )


def test_pictures_show_what_our_own_row_made(tmp_path):
    """Ours and fp32 before others, never a wrong answer, and no random weights."""
    hr = np.random.default_rng(1).random((2, 16, 16)).astype(np.float32)
    slices = ScoredSlices(
        hr=hr,
        lr=hr[:, ::2, ::2],
        file=tmp_path / "lr.npy",
        labels=("slice 1", "slice 2"),
        white=1.0,
    )
    rows = [
        bench_row("exporter-graph"),
        bench_row("openvino", "gemm", status="wrong", reason="10 dB"),
        bench_row("ort-cpu", "gemm", "int8"),
        bench_row("ort-cpu", "conv", status="unstable"),
    ]
    found = []
    for i, row in enumerate(rows):
        path = tmp_path / f"{i}.npy"
        np.save(path, hr * np.float32(0.1 * i))
        found.append((row, Measured(plan=row.plan, result=path)))
    drawn = pictures_of(found, {"x2-fast": slices, SEED_SHAPE: slices}, "sample")
    assert [one.label for one in drawn] == [f"slice {i}, ort-cpu conv fp32" for i in (1, 2)]
    assert pixels(drawn[0].sr) == pytest.approx(0.3 * hr[0] * 255, abs=0.51)
    wrong_only = pictures_of(found[1:2], {"x2-fast": slices}, "sample")
    assert wrong_only == []


@pytest.mark.parametrize(
    ("options", "drawn", "kept"),
    [([], False, False), (["--html"], True, False), (["--html", "--pictures"], True, True)],
)
def test_pictures_are_made_for_the_page_and_kept_when_asked(
    tmp_path, monkeypatch, options, drawn, kept
):
    """A stored result stays small, and holds no image that nobody asked for."""
    from kspacesr_rt.bench.run import benchmark

    def measured(asked, on_progress, reading):
        assert asked.pictures is drawn
        shown = [Picture(**picture())] if asked.pictures else []
        return BenchResult(
            rows=(bench_row("ort-cpu", "gemm"),),
            peaks={"fp32": 1e11},
            environment=result()["environment"],
            data="4 slices of the shipped sample",
            pictures=tuple(shown),
        )

    monkeypatch.setattr(benchmark, "benchmark", measured)
    page, kept_file = tmp_path / "page.html", tmp_path / "rows.json"
    options = [word for one in options for word in ([one, str(page)] if "html" in one else [one])]
    done = CliRunner().invoke(app, ["bench", "-o", str(kept_file), "-q", *options])
    assert done.exit_code == 0, done.output
    assert ("pictures" in json.loads(kept_file.read_text())) is kept
    if drawn:
        assert "slice 3 of 20" in page.read_text()
    read_result(kept_file)


def test_reports_are_written_from_a_stored_result(stored, tmp_path, monkeypatch):
    """`--from` measures nothing."""
    from kspacesr_rt.bench.run import benchmark

    monkeypatch.setattr(benchmark, "benchmark", lambda *a, **k: pytest.fail("it measured"))
    names = {kind: tmp_path / f"report.{kind}" for kind in ("html", "md", "csv")}
    arguments = ["bench", "--from", str(stored), "-o", str(tmp_path / "again.json")]
    for kind, path in names.items():
        arguments += [f"--{kind}", str(path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "no kernel for Conv" in done.output
    assert names["html"].read_text() == as_html(read_result(stored))
    assert names["md"].read_text() == as_markdown(result())
    assert len(list(csv.DictReader(names["csv"].read_text().splitlines()))) == len(result()["rows"])
    again = json.loads((tmp_path / "again.json").read_text())
    assert "pictures" not in again
    assert again["rows"] == json.loads(stored.read_text())["rows"]
    CliRunner().invoke(app, [*arguments, "--pictures"])
    assert json.loads((tmp_path / "again.json").read_text())["pictures"] == result()["pictures"]


def test_options_that_measure_do_not_go_with_a_stored_result(stored):
    """Ignored, they would look as if they had been obeyed."""
    done = CliRunner().invoke(app, ["bench", "--from", str(stored), "--threads", "1"])
    assert done.exit_code == 2
    assert "--from measures nothing, so --threads cannot go with it" in done.output


def broken(path, value):
    return json.dumps(changed(result(), path, value))


def changed(made, path, value):
    """Return a copy with one value replaced; None removes it."""
    made = copy.deepcopy(made)
    *before, last = path
    place = made
    for key in before:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no JSON result"),
        ("[1, 2]", "is no result of"),
        ("[" * 100_000, "is no JSON result"),
        (json.dumps({"rows": [], "environment": {}}), "is no result of"),
        (broken(["schema"], 99), "has schema 99; this version reads 1"),
        (broken(["rows", 0, "ratio"], float("nan")), "NaN"),
        (broken(["rows", 0, "ratio"], 1.5).replace("1.5", "1e999"), "1e999"),
        (broken(["rows", 0, "model_bytes"], 10**30), "beyond every size"),
        (broken(["rows", 0, "ratio"], "fast"), "rows[0].ratio is str, not int"),
        (broken(["rows", 0, "pareto"], 1), "rows[0].pareto is int, not bool"),
        (broken(["rows", 2, "plan", "model"], None), "rows[2].plan.model is missing"),
        (broken(["rows", 1, "roofline", 0, "flop"], None), "rows[1].roofline[0].flop is missing"),
        (broken(["environment", "packages", "numpy"], 2), "packages.numpy is int, not str"),
        (broken(["pictures", 0, "sr"], '"><b>'), "pictures[0].sr is not a PNG in base64"),
        (broken(["pictures", 0, "sr"], "AAAA"), "pictures[0].sr is not a PNG in base64"),
        (broken(["scaling"], {}), "scaling is not a list"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path, text, told):
    """With what is wrong where, not with a traceback."""
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(told)):
        read_result(path)


def numbers(value, path=()):
    """Yield where a result holds figures."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(one, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def test_no_figure_that_is_accepted_breaks_a_report(tmp_path):
    """Zero seconds, a negative rate, sizes that nothing has: refused, or shown somehow."""
    made = result()
    made["rows"], made["pictures"] = made["rows"][:3], []
    path, accepted = tmp_path / "rows.json", 0
    for i, place in enumerate(numbers(made)):
        path.write_text(json.dumps(changed(made, place, (0, -1, 1e18, 1e-30)[i % 4])))
        try:
            read = read_result(path)
        except InputError:
            continue
        accepted += 1
        as_html(read)
        as_markdown(read)
    assert accepted > 50


def test_a_missing_file_and_the_exit_code(tmp_path):
    done = CliRunner().invoke(app, ["bench", "--from", str(tmp_path / "none.json")])
    assert done.exit_code == 2
    assert "cannot read" in done.output


def test_what_a_later_version_added_is_ignored():
    made = result(novelty=1)
    made["rows"][0] |= {"novelty": 1}
    made["rows"][0]["plan"] |= {"novelty": 1}
    made["rows"][0]["latency"] |= {"novelty": 1}
    assert rows_of(made) == rows_of(result())
    assert as_html(made) == as_html(result())


@pytest.mark.parametrize("name", ["runtimes", "seed-shape", "x2-base-160"])
def test_the_stored_results_make_reports(name, request):
    path = request.config.rootpath / "bench" / "results" / f"{name}.json"
    read = read_result(path)
    rows = table_rows(as_html(read))
    assert len(rows) == len(read["rows"])
    for row, (_, texts) in zip(rows_of(read), rows, strict=True):
        if row.status == "failed":
            assert row.reason in " ".join(texts)
    assert as_markdown(read).count("\n| ") == len(rows) + 2


def test_ratios_to_different_references_do_not_share_bars():
    """A GPU's row is 10 times PyTorch on that GPU; beside the CPU's bars it would say less."""
    rows = [
        bench_row("ort-cpu", "gemm"),
        bench_row("ort-cuda", "gemm", ms=0.1, ratio=10.0, ratio_to="torch-cuda"),
    ]
    page = as_html(result(rows=[row.to_dict() for row in rows]))
    assert "1 a call, relative to torch-eager" in page
    assert "1 a call, relative to torch-cuda" in page
    assert page.count('<table class="bars">') == 2 + 1  # and the stages


def test_many_bars_are_folded_and_none_is_lost():
    rows = [bench_row("ort-cpu", "gemm", f"p{i}", ms=1.0 + i).to_dict() for i in range(40)]
    speed = as_html(result(rows=rows)).split('id="quality"')[0]
    assert "24 slower rows" in speed
    assert speed.count('class="one"') == 40


def test_curves_of_one_model_share_a_chart():
    """PyTorch beside a backend: what grows faster is seen where both are drawn."""
    made = result()
    other = copy.deepcopy(made["scaling"][0])
    for point in other["points"]:
        point |= {"backend": "torch-eager", "fft_share": None, "ratio": 1.0}
    made["scaling"].append(other)
    page = as_html(made).split('id="scaling"')[1]
    assert page.count('<svg class="chart') == 3  # matrix, its FFT share, batch
    assert "ort-cpu, exponent 2.08" in page
    assert "torch-eager, exponent 2.08" in page
    assert "batch 1: 42 ms a slice, 1.00× PyTorch" not in page
    assert "slices a call 1: 42 ms a slice, 1.00× PyTorch" in page
    assert "matrix 1024: more feature maps than fit" in page


def test_layer_groups_lie_under_the_machines_roof():
    """160 GFLOP/s over 20 GB/s: the ridge is at 8 FLOP a byte, between fft (5) and conv (200)."""
    section = as_html(result()).split('id="roofline"')[1].split('id="scaling"')[0]
    assert "conv: 200 FLOP a byte, 500 GFLOP/s" in section
    assert "fft: 5 FLOP a byte, 100 GFLOP/s" in section
    assert section.count('class="point"') == 2  # `other` computes nothing
    assert section.count("<th scope=row>") == 3
    roof = [pair.split(",") for pair in re.search(r'"fit" points="([^"]+)"', section)[1].split()]
    across, down = zip(*((float(x), float(y)) for x, y in roof), strict=True)
    assert across[0] < across[1] < across[2]
    assert down[0] > down[1] == down[2]


def test_why_there_are_no_stages_is_said():
    made = result(stages=None)
    made["environment"]["why_no_stages"] = "no row of ours is right"
    assert "Not measured: no row of ours is right" in as_html(made)


def test_an_unsettled_ratio_is_marked():
    made = result(rows=[bench_row("ort-cpu", "gemm", status="unstable", reason="moves").to_dict()])
    assert 'class="n spread unsettled"' in as_html(made)
