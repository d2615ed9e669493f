"""A file that is replaced is the old one or the new one, whatever comes between."""

import os
from pathlib import Path

import pytest
from power_cut import tree, watched

from kspacesr_rt.errors import OutputError
from kspacesr_rt.services.durable_files import sync_tree
from kspacesr_rt.system.files import replace_file


def test_content_is_on_the_disk_before_the_name(tmp_path):
    """After a power cut: an empty report, manifest or model would have replaced a good one."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "report.json").write_bytes(b"old")
    replace, seen = Path.replace, []
    with watched(root) as disk:

        def replace_once_seen(partial, path):
            sync_tree(root)  # the system may have synced the name any time
            [name] = tree(root).keys() - {"report.json"}
            seen.append(tree(disk.restore(tmp_path / "before"))[name])
            replace(partial, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", replace_once_seen)
            replace_file(root / "report.json", b"new")
        assert seen == [b"new"]
        assert tree(disk.restore(tmp_path / "after")) == {"report.json": b"new"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_attempt_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, step, error
):
    """A full disk, and Ctrl-C."""
    (tmp_path / "report.json").write_bytes(b"old")

    def failing(*_):
        raise error

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), failing)
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        replace_file(tmp_path / "report.json", b"new")
    assert isinstance(caught.value, KeyboardInterrupt) == isinstance(error, KeyboardInterrupt)
    assert tree(tmp_path) == {"report.json": b"old"}


def test_its_folder_is_made(tmp_path):
    """A report may go anywhere."""
    replace_file(tmp_path / "new" / "deeper" / "report.json", b"new")
    assert (tmp_path / "new" / "deeper" / "report.json").read_bytes() == b"new"
