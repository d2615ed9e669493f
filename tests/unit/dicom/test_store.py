"""An output is absent or complete, and nothing of anybody's is ever overwritten."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from power_cut import watched
from pydicom import dcmread

from kspacesr_rt.dicom import derive, output_path, prepare_output, store, write_atomically
from kspacesr_rt.dicom.uids import stable_uid
from kspacesr_rt.errors import OutputError
from kspacesr_rt.services.durable_files import sync_tree


@pytest.fixture
def derived(mr, save, load, run):
    return derive(load(save(mr())), np.full((40, 48), 9, np.float32), run())


@pytest.fixture
def target(derived, tmp_path):
    return output_path(tmp_path / "out", derived)


def everything(folder):
    return sorted(path for path in Path(folder).rglob("*") if not path.is_dir())


def test_a_slice_is_written_whole(derived, target):
    """And nothing stands beside it."""
    write_atomically(derived, target)
    assert everything(target.parents[1]) == [target]
    assert set(dcmread(target).pixel_array.ravel()) == {9}


def test_names_come_from_the_new_uids(derived, target, tmp_path):
    """Input names carry patients' names."""
    assert target == tmp_path / "out" / derived.SeriesInstanceUID / f"{derived.SOPInstanceUID}.dcm"


def test_a_folder_that_is_taken_away_meanwhile_is_made_again(derived, target, monkeypatch):
    """A file that fails beside it takes its folder away, if it is empty just then."""
    make, left = os.mkdir, [1, 2, 3]

    def make_and_lose(path, *arguments, **options):
        make(path, *arguments, **options)
        if left and Path(path) == target.parent:
            left.pop()
            Path(path).rmdir()

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    write_atomically(derived, target)
    assert (left, everything(target.parents[1])) == ([], [target])


def test_a_folder_that_never_stays_is_an_error(derived, target, monkeypatch):
    """Not an endless loop."""
    make = os.mkdir

    def make_and_lose(path, *arguments, **options):
        make(path, *arguments, **options)
        Path(path).rmdir()

    target.parents[1].mkdir()
    monkeypatch.setattr(os, "mkdir", make_and_lose)
    with pytest.raises(OutputError):
        write_atomically(derived, target)


def test_the_umask_decides_who_may_read(derived, target):
    """Mkstemp's 0600 would lock the PACS gateway out."""
    old = os.umask(0o027)
    try:
        write_atomically(derived, target)
    finally:
        os.umask(old)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.fixture(params=[True, False], ids=["links", "no-links"])
def links(request, monkeypatch):
    if not request.param:

        def refuse(self, target):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    return request.param


@pytest.mark.usefixtures("links")
def test_an_existing_file_is_never_replaced(derived, target):
    """Not even by an equal one; with and without hard links."""
    target.parent.mkdir(parents=True)
    target.write_text("precious")
    with pytest.raises(OutputError, match="exists already") as caught:
        write_atomically(derived, target)
    assert caught.value.hint == "remove it, or choose another folder"
    assert everything(target.parents[1]) == [target]
    assert target.read_text() == "precious"


@pytest.mark.usefixtures("links")
def test_writing_works_with_and_without_hard_links(derived, target):
    """FAT and SMB shares have none."""
    write_atomically(derived, target)
    assert everything(target.parents[1]) == [target]
    assert dcmread(target).SOPInstanceUID == derived.SOPInstanceUID


def test_a_failed_rename_leaves_no_empty_claim(derived, target, monkeypatch):
    """An empty .dcm under the final name would be taken for a result."""

    def refuse(self, *_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="Operation not permitted"):
        write_atomically(derived, target)
    assert everything(target.parents[1]) == []


def test_a_full_disk_leaves_nothing(derived, target, monkeypatch):
    """Pydicom alone leaves the first 200 kB under the final name."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(derived, target)
    assert everything(target.parents[1]) == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_file_that_does_not_read_back_leaves_nothing(share, derived, target, monkeypatch):
    """Some file systems report a full disk to nobody."""
    original = store._write_new
    monkeypatch.setattr(
        store,
        "_write_new",
        lambda path, content: original(path, content[: int(len(content) * share)]),
    )
    with pytest.raises(OutputError, match="read"):
        write_atomically(derived, target)
    assert everything(target.parents[1]) == []


def changed(parts, change):
    """Return what a file is made of, other than it should be."""
    return [memoryview(change(b"".join(parts)))]


def test_another_instance_in_its_place_is_noticed(derived, target, monkeypatch):
    """The right length is not enough."""
    original = store._write_new
    uid = str(derived.SOPInstanceUID).encode()
    other = b"1" * len(uid)
    monkeypatch.setattr(
        store,
        "_write_new",
        lambda path, parts: original(path, changed(parts, lambda one: one.replace(uid, other))),
    )
    with pytest.raises(OutputError, match="reads back differently"):
        write_atomically(derived, target)
    assert everything(target.parents[1]) == []


@pytest.mark.parametrize("place", [140, -1], ids=["header", "pixels"])
def test_one_wrong_bit_is_noticed(place, derived, target, monkeypatch):
    """Length and UIDs are right: only comparing what is on the disk tells."""
    original = store._write_new

    def flipped(content):
        harmed = bytearray(content)
        harmed[place] ^= 1
        return bytes(harmed)

    def write_a_flipped_bit(path, parts):
        return original(path, changed(parts, flipped))

    monkeypatch.setattr(store, "_write_new", write_a_flipped_bit)
    with pytest.raises(OutputError, match="reads back differently"):
        write_atomically(derived, target)
    assert everything(target.parents[1]) == []


def test_content_is_on_the_disk_before_the_name(derived, target, tmp_path):
    """After a power cut a name stands for a whole file, or for none."""
    (tmp_path / "out").mkdir()
    with watched(tmp_path) as disk:
        write_atomically(derived, target)
        sync_tree(tmp_path)  # only names: content is the writer's duty
        restored = disk.restore(tmp_path.with_name(f"{tmp_path.name} restored"))
    assert (restored / target.relative_to(tmp_path)).read_bytes() == target.read_bytes()


def test_an_output_stands_if_it_is_whole_and_is_that_output(derived, target):
    """An earlier run's: it is not written again, and is left as it is."""
    assert not store.is_complete_output(target, derived.SOPInstanceUID)
    write_atomically(derived, target)
    before = target.stat()
    assert store.is_complete_output(target, derived.SOPInstanceUID)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("harm", ["cut by a byte", "emptied", "another instance", "not trusted"])
def test_what_is_no_whole_output_makes_room_for_it(harm, derived, target):
    """Half a file under an output's name would be taken for it for ever."""
    write_atomically(derived, target)
    content = target.read_bytes()
    uid = str(derived.SOPInstanceUID).encode()
    if harm == "cut by a byte":
        target.write_bytes(content[:-1])
    elif harm == "emptied":
        target.write_bytes(b"")
    elif harm == "another instance":
        target.write_bytes(content.replace(uid, b"1" * len(uid)))
    assert not store.is_complete_output(target, derived, trusted=harm != "not trusted")
    write_atomically(derived, target)
    assert target.read_bytes() == content


def test_an_output_that_is_cut_off_anywhere_makes_room(derived, target):
    """Before its pixels, too: what is left there is a sound file of another kind."""
    write_atomically(derived, target)
    content = target.read_bytes()
    n_head = len(content) - len(derived.PixelData)
    cuts = {*range(0, n_head + 64), *range(n_head, len(content), 997), len(content) - 1}
    for n_bytes in sorted(cuts):
        target.write_bytes(content[:n_bytes])
        assert not store.is_complete_output(target, derived.SOPInstanceUID), n_bytes
        assert not target.exists()


def test_a_link_under_an_outputs_name_is_refused_and_left(derived, target, tmp_path):
    """It may lead into the input."""
    write_atomically(derived, target)
    elsewhere = tmp_path / "elsewhere.dcm"
    target.rename(elsewhere)
    target.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="under an output's name"):
        store.is_complete_output(target, derived.SOPInstanceUID)
    assert target.is_symlink()
    assert elsewhere.exists()


def test_only_files_that_a_killed_run_left_are_removed(tmp_path):
    """Links and folders of such names, and other names, are none of ours."""
    series = tmp_path / stable_uid("s")
    series.mkdir()
    ours = [series / f".{stable_uid('i')}.dcm.0123abcd.part", tmp_path / ".a.json.0123abcd.part"]
    for path in ours:
        path.write_bytes(b"half")
    others = [series / ".b.0123abc.part", series / "b.0123abcd.part", tmp_path / "c.part"]
    for path in others:
        path.write_bytes(b"theirs")
    link, folder = series / ".link.0123abcd.part", series / ".folder.0123abcd.part"
    link.symlink_to(others[0])
    folder.mkdir()
    store.remove_leftovers(tmp_path)
    assert [path for path in ours if path.exists()] == []
    assert all(path.exists() for path in (*others, link, folder))


def test_an_interrupt_leaves_nothing(derived, target, monkeypatch):
    """Ctrl-C ends a run, not the tidiness of the folder."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_require_meaning", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(derived, target)
    assert everything(target.parents[1]) == []


def test_the_temporary_file_is_no_dcm_in_the_same_folder(derived, target, monkeypatch):
    """Hot folders and routers grab *.dcm; /tmp may be another disk and readable by others."""
    seen = []
    original = store._write_new
    monkeypatch.setattr(
        store,
        "_write_new",
        lambda path, content: seen.append(path) or original(path, content),
    )
    write_atomically(derived, target)
    (temporary,) = seen
    assert temporary.parent == target.parent
    assert temporary.suffix == ".part"


def test_a_folder_that_cannot_be_made_is_an_output_error(derived, tmp_path):
    """A file where the series folder should be."""
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(derived, tmp_path / "out" / "1" / "1.dcm")


def snapshot(folder):
    return {str(p): p.read_bytes() for p in everything(folder)}


def ours(folder):
    series = folder / stable_uid("s")
    series.mkdir(parents=True)
    (series / f"{stable_uid('i')}.dcm").write_bytes(b"x")
    (series / f".{stable_uid('j')}.dcm.0123abcd.part").write_bytes(b"x")
    (folder / "report.json").write_text("{}")
    (folder / "preview-1.png").write_bytes(b"x")
    return series


def test_a_new_and_an_empty_folder_are_taken(tmp_path):
    """The two usual cases; a run that finds no MR image must leave no folder behind."""
    (tmp_path / "in").mkdir()
    prepare_output(tmp_path / "in", tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "a" / "b").mkdir(parents=True)
    prepare_output(tmp_path / "in", tmp_path / "a" / "b")


def test_our_own_outputs_may_stay(tmp_path):
    """A run is resumed by giving the same command again."""
    (tmp_path / "in").mkdir()
    ours(tmp_path / "out")
    before = snapshot(tmp_path)
    prepare_output(tmp_path / "in", tmp_path / "out")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("root_in", "root_out", "message"),
    [
        ("in", "in", "is the input itself"),
        ("in", "in/sub/out", "lies inside the input"),
        ("in/sub", "in", "contains the input"),
        ("in", "link", "is the input itself"),
        ("in", "link/out", "lies inside the input"),
        ("in/sub/file", "in/sub", "contains the input"),
        ("in", "x/../in", "is the input itself"),
    ],
)
def test_input_and_output_are_kept_apart(root_in, root_out, message, tmp_path):
    """By what they are, not by how they are spelled; and nothing is touched."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "file").write_text("x")
    (tmp_path / "link").symlink_to("in")
    before = snapshot(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=message) as caught:
        prepare_output(tmp_path / root_in, tmp_path / root_out)
    assert caught.value.hint == "choose a new folder outside the input"
    assert (snapshot(tmp_path), sorted(tmp_path.rglob("*"))) == before


@pytest.mark.parametrize(
    ("root_in", "root_out", "message"),
    [
        ("in", "IN", "is the input itself"),
        ("in", "IN/out", "lies inside the input"),
        ("in/sub", "IN", "contains the input"),
    ],
)
def test_two_names_of_one_folder_are_one_folder(root_in, root_out, message, tmp_path, monkeypatch):
    """On a mount, or where case is no difference, only the system knows that they are the same."""
    for name in ("in/sub", "IN"):
        (tmp_path / name).mkdir(parents=True)
    real, pair = Path.samefile, {tmp_path / "in", tmp_path / "IN"}
    monkeypatch.setattr(
        Path, "samefile", lambda one, other: {one, other} == pair or real(one, other)
    )
    with pytest.raises(OutputError, match=message):
        prepare_output(tmp_path / root_in, tmp_path / root_out)


@pytest.mark.parametrize(
    "foreign",
    [
        "notes.txt",
        "IM0001.dcm",
        ".hidden",
        "2.25.7/other.txt",
        "2.25.7/1.2.840.dcm",
        "2.25.7/deeper/2.25.8.dcm",
        "1.2.840/2.25.8.dcm",
        "2.25.007/2.25.8.dcm",
        "sub/report.json",
    ],
)
def test_a_folder_with_anything_else_is_refused(foreign, tmp_path):
    """A mistyped -o must not mix results into somebody's study."""
    (tmp_path / "in").mkdir()
    ours(tmp_path / "out")
    path = tmp_path / "out" / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="not outputs of this tool") as caught:
        prepare_output(tmp_path / "in", tmp_path / "out")
    assert caught.value.hint == "choose a new or empty folder"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", [stable_uid("s"), "report.json"])
def test_a_link_with_one_of_our_names_is_refused(name, tmp_path):
    """Writing through it would write elsewhere."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("") if name == "report.json" else elsewhere.mkdir()
    (tmp_path / "out" / name).symlink_to(elsewhere)
    with pytest.raises(OutputError, match="not outputs of this tool"):
        prepare_output(tmp_path / "in", tmp_path / "out")


def test_a_file_as_output_is_refused(tmp_path):
    """-o result.dcm is a natural mistake."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="not a folder"):
        prepare_output(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("place", ["out", "new/out"])
def test_a_place_that_may_not_be_written_is_refused(place, tmp_path, monkeypatch):
    """Read-only shares are common; hours of computing must not come first."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="may not be written"):
        prepare_output(tmp_path / "in", tmp_path / place)


def test_a_place_below_a_file_is_refused(tmp_path):
    """No folder can be made there."""
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="may not be written"):
        prepare_output(tmp_path / "in", tmp_path / "file" / "out")


def test_a_folder_that_cannot_be_listed_says_why(tmp_path, monkeypatch):
    """Whether it holds somebody's files cannot be told."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        prepare_output(tmp_path / "in", tmp_path / "out")
