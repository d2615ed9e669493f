"""UIDs are legal, and stable when they should be."""

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from kspacesr_rt.dicom import uids

parts = st.lists(st.text() | st.integers() | st.none() | st.booleans(), max_size=4)


@given(parts)
def test_any_seed_gives_a_legal_uid(seed):
    """PS3.5 B.2: 2.25 and at most 39 digits without a leading zero, 64 characters in all."""
    uid = uids.stable_uid(*seed)
    assert UID(uid).is_valid
    assert uids.OUR_UID.fullmatch(uid)
    assert len(uid) <= 44
    assert int(uid.removeprefix("2.25.")) < 2**128


def test_parts_are_kept_apart():
    """Pydicom's `generate_uid` joins its entropy: ("ab", "c") equals ("a", "bc") there."""
    assert uids.stable_uid("ab", "c") != uids.stable_uid("a", "bc")
    assert uids.stable_uid("1") != uids.stable_uid(1)


def test_the_namespace_never_changes():
    """A golden value: with another one, every re-sent series would be a new series."""
    assert uids.stable_uid("golden") == "2.25.157462486048710978405352565269243289773"
    assert UID(uids.IMPLEMENTATION_CLASS_UID).is_valid
    assert len(uids.IMPLEMENTATION_VERSION_NAME) <= 16
