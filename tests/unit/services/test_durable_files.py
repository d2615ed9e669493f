"""What the single changes to the spool's disk promise is on the disk when they return."""

from __future__ import annotations

import pytest
from power_cut import tree, watched

from kspacesr_rt.pipeline import InferOptions
from kspacesr_rt.services import durable_files
from kspacesr_rt.services.node.processing import node_options

STEPS = {
    "a new file's content": (
        lambda root: (
            durable_files.write_new(root / "file", b"pix", b"els"),
            durable_files.sync_folder(root),
        ),
        {"file": b"pixels"},
    ),
    "a fresh file that is added to": (
        lambda root: durable_files.append(root / "file", b"line\n"),
        {"file": b"line\n"},
    ),
    "what is added": (
        lambda root: (
            durable_files.append(root / "file", b"one"),
            durable_files.append(root / "file", b"two"),
        ),
        {"file": b"onetwo"},
    ),
    "a cut end": (
        lambda root: (
            durable_files.append(root / "file", b"onetwo"),
            durable_files.truncate(root / "file", 3),
        ),
        {"file": b"one"},
    ),
    "a folder": (lambda root: durable_files.make_folder(root / "a"), {"a": None}),
    "a folder in a folder": (
        lambda root: (
            durable_files.make_folder(root / "a"),
            durable_files.make_folder(root / "a" / "b"),
        ),
        {"a": None, "a/b": None},
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_did_is_on_the_disk_when_it_returns(step, tmp_path):
    """Fsync of the file, and of the folder that got its name."""
    do, expected = STEPS[step]
    root = tmp_path / "root"
    root.mkdir()
    with watched(root) as disk:
        do(root)
        assert tree(disk.restore(tmp_path / "restored")) == expected == tree(root)


def test_what_is_moved_has_one_name_on_the_disk(tmp_path):
    """Both folders are synced: a part that came back under its old name would be sent twice."""
    root = tmp_path / "root"
    for name in ("here", "there"):
        (root / name).mkdir(parents=True)
    (root / "here" / "file").write_bytes(b"pixels")
    with watched(root) as disk:
        durable_files.move(root / "here" / "file", root / "there" / "file")
        restored = tree(disk.restore(tmp_path / "restored"))
    assert restored == {"here": None, "there": None, "there/file": b"pixels"}


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path):
    """Whoever put it there: nothing outside the spool is the spool's to remove."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_bytes(b"pixels")
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    durable_files.remove_tree(inside)
    assert tree(tmp_path) == {"outside": None, "outside/file": b"pixels", "outside/folder": None}


def test_the_model_of_a_power_cut_forgets_what_was_not_synced(tmp_path):
    """A model that kept everything would pass everything."""
    root = tmp_path / "root"
    root.mkdir()
    kept = root / "kept"
    kept.write_bytes(b"old")
    with watched(root) as disk:
        kept.write_bytes(b"new")
        (root / "nameless").write_bytes(b"pixels")
        (root / "folder").mkdir()
        (root / "empty").write_bytes(b"pixels")
        assert tree(disk.restore(tmp_path / "one")) == {"kept": b"old"}
        durable_files.sync_folder(root)
        (root / "folder" / "inner").write_bytes(b"pixels")
        assert tree(disk.restore(tmp_path / "two")) == {
            "kept": b"old",
            "nameless": b"",
            "folder": None,
            "empty": b"",
        }


@pytest.mark.parametrize(
    ("asked", "kept"), [("none", "batch"), ("batch", "batch"), ("file", "file")]
)
def test_what_a_node_has_spooled_is_durable_whatever_was_asked_for(asked, kept):
    """Senders were told that what they sent is safe."""
    assert node_options(InferOptions(durability=asked)).durability == kept
