"""A file that is replaced is the old one or the new one, whatever comes between."""

import os
from pathlib import Path

import pytest
from power_cut import tree, watched

from kspacesr_rt.errors import OutputError
from kspacesr_rt.services.durable_files import sync_tree
from kspacesr_rt.system.files import replace_file, require_place_for_file


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_keeps_its_place(tmp_path, linked):
    """As root, ``-o /dev/null`` would have made a file of it, for every program of the machine."""
    place = pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        place = tmp_path / "link"
        place.symlink_to(pipe)
    with pytest.raises(OutputError, match="is a device, a pipe or a socket"):
        replace_file(place, b"new")
    assert pipe.is_fifo()
    assert place.is_symlink() == linked
    assert len([*tmp_path.iterdir()]) == 1 + linked


def test_a_name_that_no_system_takes_is_no_internal_error(tmp_path):
    with pytest.raises(OutputError, match=r"^cannot write .*File name too long"):
        require_place_for_file(tmp_path / ("n" * 300))


@pytest.mark.parametrize("name", ["", ".", "folder"])
def test_a_folder_is_no_place_for_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        replace_file(Path(name), b"new")


def test_its_folder_is_made(tmp_path):
    """A report may go anywhere."""
    replace_file(tmp_path / "new" / "deeper" / "report.json", b"new")
    assert (tmp_path / "new" / "deeper" / "report.json").read_bytes() == b"new"
