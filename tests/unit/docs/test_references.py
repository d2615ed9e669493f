"""The lists of the reference are those of the code: all that it has, and nothing else."""

import ast
import dataclasses
import functools
import importlib
import json
import re

import jsonschema
import pytest
from repository import ROOT

import kspacesr_rt
from kspacesr_rt.pipeline.report import (
    RunReport,
    SeriesRecord,
    SeriesWarning,
    SliceRecord,
    StageTiming,
    StaleRecord,
)

REFERENCE = ROOT / "docs" / "reference"
SCHEMA = json.loads((REFERENCE / "report.schema.json").read_text())
ERRORS = ("SliceSkipped", "SliceFailed", "SliceError")
UNCALLED = {"accident", "backend", "stale-output", "strict"}
"""Words that the code gives by a constant, or without an error."""
SERVICE_LOGS = ("_log", "log", "_limited_log")


@pytest.fixture(scope="module", autouse=True)
def hooks():
    """Let the modules that write pages be imported, and found by each other."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(ROOT / "docs" / "hooks")
        yield


@pytest.fixture(scope="module")
def generated(hooks):
    """Return the module that makes lists of the reference."""
    return importlib.import_module("references")


def first_column(page, title):
    """Return the words in backticks that begin the rows of a section's table."""
    text = (REFERENCE / page).read_text()
    section = re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    words = [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]
    assert len(words) == len(set(words)), f"{page}: {title}: named twice"
    return set(words)


def calls(generated, folders=("kspacesr_rt",)):
    for folder in folders:
        for path, tree in generated.sources(folder):
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    yield path, node


@functools.cache
def text_of(folder):
    """Return the modules of a folder, one behind the other: links in it are not followed."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    inside = [path for path in paths if not any(one.is_symlink() for one in path.parents)]
    return "".join(path.read_text() for path in inside)


def name_of(function):
    return getattr(function, "id", None) or getattr(function, "attr", None)


def test_every_reason_word_is_explained(generated):
    """Who finds a word in a report looks it up there."""
    given = {"SliceSkipped": set(), "SliceFailed": set(), "SliceError": set()}
    for _, call in calls(generated):
        if name_of(call.func) in ERRORS and call.args:
            # Behind a condition there may be two.
            for node in ast.walk(call.args[0]):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    given[name_of(call.func)].add(node.value)
    assert len(given["SliceFailed"]) > 10, "the pattern still finds them"
    skipped = first_column("reason-words.md", "Skipped")
    failed = first_column("reason-words.md", "Failed")
    assert skipped - UNCALLED == given["SliceSkipped"]
    assert failed - UNCALLED - {"non-finite"} == given["SliceFailed"] - {"non-finite"}
    assert (skipped | failed) >= UNCALLED
    text = text_of("kspacesr_rt")
    assert {word for word in skipped | failed if f'"{word}"' not in text} == set()


def test_every_word_for_stale_outputs_is_explained():
    stale = SCHEMA["$defs"]["stale"]["properties"]["reason"]["enum"]
    assert first_column("reason-words.md", "Stale outputs") == set(stale)


def events(generated, own):
    """Return each event of the modules that `own` accepts, with the fields of its lines."""
    found = {}
    for path, call in calls(generated):
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        if name_of(call.func) != "write" or owner.split(".")[-1] not in SERVICE_LOGS:
            continue
        if not own(path) or not call.args:
            continue
        names = [
            node.value
            for node in ast.walk(call.args[0])
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        if ast.unparse(call.args[0]) == "record.outcome":
            names = ["skipped", "failed"]
        for name in names:
            found.setdefault(name, set()).update(one.arg for one in call.keywords if one.arg)
    return found


@pytest.mark.parametrize(
    ("title", "own"),
    [
        ("serve", lambda path: "node" in path.parts and path.name != "events.py"),
        ("watch", lambda path: any(part.startswith("watch") for part in path.parts)),
    ],
    ids=["serve", "watch"],
)
def test_every_event_is_listed_with_its_fields(generated, title, own):
    """A rule of a log collector is written from this table."""
    text = (REFERENCE / "log-events.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    told = {
        event: set(re.findall(r"`([^`]+)`", fields)) - {"times"}
        for event, fields in re.findall(r"^\| `([^`]+)` \| (.*?) ?\|", text, re.MULTILINE)
    }
    coded = events(generated, own)
    assert len(coded) > 10, "the pattern still finds them"
    assert told.keys() == coded.keys()
    for event, fields in coded.items():
        # Fields that come in a mapping are named on the page alone.
        assert fields <= told[event], event
        extra = told[event] - fields
        assert not extra or event == "forward-failed", (event, extra)


def test_every_environment_variable_is_listed():
    """But for those that stand for options: a rule on the page makes them from the options."""
    text = "".join(map(text_of, ("kspacesr_rt", "train", "export", "bench")))
    read = set(re.findall(r'"(KSPACESR_RT_[A-Z_]*[A-Z])"', text))
    pattern = r"environ(?:\.get\(|\[)\"(KSPACESR_RT_[A-Z_]+)\"(?!\] =)"
    read |= set(re.findall(pattern, text_of("tests")))
    assert len(read) > 5
    assert first_column("environment.md", "Ours") == read
    others = first_column("environment.md", "Others'") - {"TZ", "RAY_AUTH_MODE"}
    assert {name for name in others if f'"{name}"' not in text} == set()


def test_every_metric_that_a_page_names_is_counted(generated):
    """An alert on a name that nothing counts never fires."""
    known = {name for name, _ in [*generated.node_counters(), *generated.node_gauges()]}
    for path in (ROOT / "docs").rglob("*.md"):
        named = set(re.findall(r"\bkspacesr_node_[a-z_]+[a-z]", path.read_text()))
        assert named <= known, path


def test_every_exit_code_is_explained():
    """Also those that no error carries."""
    from kspacesr_rt import errors

    table = (REFERENCE / "exit-codes.md").read_text().split("## ")[0]
    told = {
        int(code)
        for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
        for code in row.split(",")
    }
    carried = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.KspaceSRError)
    }
    assert told == carried | {0, 130, 143}


def test_every_public_name_is_on_the_page_of_python():
    """Where it is defined, so that its docstring is shown."""
    page = (REFERENCE / "api.md").read_text()
    for name in kspacesr_rt.__all__:
        if name.startswith("__"):
            continue
        assert f"ks.{name}" in page, name
        home = kspacesr_rt._HOMES.get(name)
        part = f"<!-- generated: python kspacesr_rt.{home}.{name} as ks.{name}"
        assert home is None or part in page, name


def test_the_map_of_the_code_names_every_room_and_what_is_there():
    """A stranger finds the half-pixel rule, the backends, their imports and how runs resume."""
    page = (ROOT / "docs" / "explanation" / "where-is-what.md").read_text()
    named = re.findall(r"`((?:kspacesr_rt|train|export|bench|tests)/[\w./]*)`", page)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path
    for path in (ROOT / "kspacesr_rt").iterdir():
        if path.is_dir() and not path.is_symlink() and any(path.glob("*.py")):
            assert f"`{path.name}/`" in page, path.name
    for name, file in (
        ("def sample_origin", "kspacesr_rt/kspace/transforms.py"),
        ("sample_origin", "kspacesr_rt/dicom/geometry.py"),
        ("sample_origin", "kspacesr_rt/volumes/volume.py"),
        ("BACKENDS = {", "kspacesr_rt/runtime/backends.py"),
        ("LAYERS = (", "tests/unit/test_architecture.py"),
        ("journal", "kspacesr_rt/pipeline/output_folder.py"),
        ("journal", "kspacesr_rt/pipeline/journal_entries.py"),
        ("spool", "kspacesr_rt/services/node/spool.py"),
    ):
        assert f"`{file}`" in page, file
        assert name in (ROOT / file).read_text(), (name, file)


def test_the_table_of_rooms_is_that_of_the_layers():
    """Whoever reads which room may import which reads what the test of the architecture holds."""
    page = (ROOT / "docs" / "explanation" / "where-is-what.md").read_text()
    rooms = re.findall(
        r"^\| `(\w+)(?:/|\.py)` \| ", page.split("## The rooms of the runtime")[1], re.M
    )
    source = ast.parse((ROOT / "tests" / "unit" / "test_architecture.py").read_text())
    [layers] = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    ]
    elsewhere = re.compile(r"train|export|bench\.\w+")  # not of the runtime
    own = [{room for room in layer if not elsewhere.fullmatch(room)} for layer in layers]
    floors = [floor for floor in own if floor]
    assert set(rooms) == set().union(*floors)
    places = {room: number for number, floor in enumerate(floors) for room in floor}
    assert [places[room] for room in rooms] == sorted(places[room] for room in rooms)
    shared = page.split("never those that come after it; ")[1].split(" share a")[0]
    assert set(re.findall(r"`(\w+)`", shared)) == set().union(
        *(one for one in floors if len(one) > 1)
    )


def test_options_that_several_commands_share_are_listed(generated):
    """And which commands mean something else by the name: `--name` of `adopt` is a model's."""
    rows = generated.shared_variables().splitlines()
    [name] = [row for row in rows if "`KSPACESR_RT_NAME`" in row]
    read, others = name.split(" | ")[1:]
    assert read == "`infer`, `watch`"
    assert "`adopt`" in others
    assert not any("_FORCE`" in row for row in rows)


def test_lists_made_from_the_code_are_complete(generated):
    """A pattern that no longer finds anything would leave a page empty."""
    commands = generated.command_line()
    for word in ("## infer", "## serve", "### bench gate", "`--on-interpolated", "`--stale"):
        assert word in commands
    assert generated.exit_codes().count("**") == 20
    assert generated.metrics().count("\n- `") > 20
    assert "`upscale` : `int`" in generated.model_specification()
    assert "weights_sha256" in generated.model_provenance()
    assert "`added_energy_ratio`" in generated.report_fields()


def test_pages_are_what_the_code_says():
    """Who reads a page in a clone, or on the host of the code, has all of it, and as it is now."""
    write_pages = importlib.import_module("write_pages")
    pages = list(write_pages.pages())
    text = "".join(path.read_text() for path in pages)
    for maker in write_pages.MAKERS:
        assert text.count(f"<!-- generated: {maker} -->") == 1, maker
    assert text.count("<!-- generated: ") == text.count("<!-- end -->")
    for path in pages:
        current = write_pages.written(path.read_text())
        assert path.read_text() == current, f"{path.name}: python docs/hooks/write_pages.py"


def test_a_public_name_is_shown_whole():
    """Signature, text, parameters, errors and example; of a class its fields and methods too."""
    docstrings = importlib.import_module("docstrings")
    load = docstrings.python_name("kspacesr_rt.pipeline.array_model.load as ks.load")
    for part in ("model: str |", "threads: int = 0", "- `backend`: What", "`ModelFileError`: If"):
        assert part in load
    assert ">>> model.close()" in load
    model = docstrings.python_name(
        "kspacesr_rt.pipeline.array_model.Model as ks.Model: __call__ spec"
    )
    assert "model(lr: npt.ArrayLike, *, trust: Literal[False] = False) -> FloatArray\n" in model
    assert "trust: Literal[True]) -> tuple[FloatArray, FloatArray]" in model  # every overload
    assert "- `spec` : `ModelSpec`: What" in model
    assert "ks.Model.close" not in model


# report.json -------------------------------------------------------------------------------------


def validate(report):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)


@pytest.mark.parametrize(
    ("part", "kind", "left_out"),
    [
        ("slice", SliceRecord, set()),
        ("series", SeriesRecord, set()),
        ("stale", StaleRecord, set()),
        ("stage", StageTiming, set()),
        ("series_warning", SeriesWarning, set()),
        ("run", RunReport, {"ended_with"}),
    ],
)
def test_the_schema_has_the_fields_of_the_records(part, kind, left_out):
    """A new field shows up there, with its meaning."""
    fields = {one.name for one in dataclasses.fields(kind)} - left_out
    told = SCHEMA["$defs"][part]["properties"]
    assert fields <= told.keys()
    if part != "run":
        assert fields == told.keys()
    assert all(value["description"] for value in told.values())


def test_the_schema_refuses_what_is_no_report():
    """One that accepts anything would prove nothing."""
    good = {"schema": 1, "slices": []}
    with pytest.raises(jsonschema.ValidationError):
        validate(good)
    with pytest.raises(jsonschema.ValidationError):
        validate({**good, "watch": True})
    with pytest.raises(jsonschema.ValidationError):
        validate({"error": "it failed", "exit_code": 2})
