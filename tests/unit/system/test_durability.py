"""What is brought to the disk, and what is said where that cannot be done."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from kspacesr_rt.system.durability import folders_up_to, sync_above, sync_all, sync_folder


def failing_with(number, monkeypatch):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_is_told_apart(tmp_path, monkeypatch, number):
    """SMB and some of FUSE: nobody can have it there, and a note says so."""
    assert sync_folder(tmp_path)
    failing_with(number, monkeypatch)
    assert not sync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch, number):
    """It is no property of the file system."""
    failing_with(number, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)


def test_folders_are_those_between_file_and_root(tmp_path):
    """Each once, and the root that may have got them."""
    deep, flat = tmp_path / "a" / "b" / "1.nii", tmp_path / "a" / "2.nii"
    expected = [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
    assert folders_up_to([deep, flat], tmp_path) == expected


@pytest.mark.parametrize("n_files", [1, 4, 11])
def test_each_file_has_its_own_answer(tmp_path, monkeypatch, n_files):
    """Of files that are synced side by side, those that the disk has taken are published."""
    paths = [tmp_path / str(number) for number in range(n_files)]
    descriptors = [os.open(path, os.O_CREAT | os.O_WRONLY) for path in paths]
    bad, synced = descriptors[::3], []

    def fsync(descriptor):
        synced.append(descriptor)
        if descriptor in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with ThreadPoolExecutor(4) as pool:
        errors = sync_all(descriptors, pool)
    monkeypatch.undo()
    assert sorted(synced) == sorted(descriptors)
    assert [error is not None for error in errors] == [one in bad for one in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)


def test_what_may_not_be_read_above_a_folder_is_no_error(tmp_path, monkeypatch):
    """A home folder that others may only pass through was not made by this run."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    opened, real = [], os.open

    def may_not_read(path, *arguments, **options):
        opened.append(path)
        if path == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", may_not_read)
    sync_above(tmp_path / "a" / "b")
    assert opened[:2] == [tmp_path / "a", tmp_path]
