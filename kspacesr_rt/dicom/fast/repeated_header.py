"""Read a header by what it has in common with another of its series, and parse what differs.

Of the hundred elements of a slice a dozen differ from those of its neighbour. So the bytes of a
header are compared to those of one that was read as a whole, and where they are the same, so are
the elements. Whatever is odd, or could change how other elements are understood, is an
`UnusualEncodingError`: such a file is read as a whole again.
"""

from __future__ import annotations

import io
from typing import Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from kspacesr_rt.dicom.fast.element_steps import (
    EXPLICIT,
    IMPLICIT,
    OWN_META,
    SEQUENCE_VRS,
    UNDEFINED_LENGTH,
    VRS,
    MetaOfSeries,
    UnusualEncodingError,
    after_sequence,
    explicit_value,
    looks_explicit,
    require_sequence,
    tag_of,
)
from kspacesr_rt.dicom.header import fragments
from kspacesr_rt.dicom.raw_header import (
    PIXEL_DATA,
    RawHeader,
    SharedValues,
    raw_element,
    selected_elements,
    shared_tag,
    sign_of,
)
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom

_FIRST_GROUP, _PIXEL_GROUP = 8, 0x7FE0
_DECISIVE: Final = frozenset(
    {0x00080005, 0x00280100, 0x00280103, 0x00283002, 0x00281101, 0x00281102, 0x00281103, 0x54000101}
)
"""Character set, bits, sign and descriptors: how other elements are understood hangs on them."""
_SYNTAXES: Final = {
    str(ImplicitVRLittleEndian): True,
    str(ExplicitVRLittleEndian): False,
    str(RLELossless): False,
}
"""Whether a transfer syntax has implicit VRs."""
_CODEC_SYNTAXES: Final = "1.2.840.10008.1.2.4."
_PIXELS: Final = shared_tag(PIXEL_DATA)
_PIXEL_VRS: Final = {b"OB": "OB", b"OW": "OW", None: "OW"}

_Span = tuple[int, int, int, str | None, int, bool]
"""Tag, where the element begins, where its value does, its VR if that is there, where it ends, and
whether its length is undefined; pixel data of undefined length end where they begin."""


class RepeatedHeader:
    """The header of one file, and what it was understood to be; for any threads."""

    @quiet_pydicom()  # the file meta information is converted
    def __init__(self, content: bytes, dataset: RawHeader) -> None:
        """Take a file apart.

        Parameters
        ----------
        content
            The whole file.
        dataset
            What it was read as, pixel data included.

        Raises
        ------
        UnusualEncodingError, struct.error
            If it is none to compare others with.
        """
        syntax = str(dataset.file_meta.get("TransferSyntaxUID"))
        if syntax not in _SYNTAXES and not syntax.startswith(_CODEC_SYNTAXES):
            raise UnusualEncodingError
        self._implicit = _SYNTAXES.get(syntax, False)
        self._meta = MetaOfSeries(content)
        at = self._meta.end
        if self._implicit == looks_explicit(content, at):
            raise UnusualEncodingError
        self._elements: dict[BaseTag, DataElement | RawDataElement] = {}
        self._raw: dict[BaseTag, bytes] = {}
        last = 0
        while (span := self._span(content, at))[0] != PIXEL_DATA:
            tag, start, value, _, at, _ = span
            if tag <= last or at > len(content):
                raise UnusualEncodingError
            last = tag
            own = shared_tag(tag)
            element = dataset.get_item(own)
            if isinstance(element, RawDataElement) and not _is_value_of(element, content[value:at]):
                raise UnusualEncodingError
            self._elements[own] = element
            self._raw[own] = content[start:at]
        if {*self._elements, PIXEL_DATA} != set(dataset.keys()):
            raise UnusualEncodingError
        _, self._signed = self._pixels(content, span), sign_of(dataset)
        self._dataset = selected_elements(dataset, lambda one: one != PIXEL_DATA)
        self._file_meta = FileMetaDataset()
        for known in dataset.file_meta:
            if known.tag not in OWN_META:
                self._file_meta.add(known)
        self.values = SharedValues(self._elements.values())
        """What its elements mean, as far as somebody has asked."""
        self._varying: set[BaseTag] = set()
        self._runs = self._new_runs()

    def _new_runs(self) -> list[tuple[bytes, list[BaseTag]]]:
        """Return the elements joined as far as none between them was seen to vary."""
        runs: list[tuple[bytes, list[BaseTag]]] = []
        joined = False
        for tag, raw in self._raw.items():
            if tag not in self._varying and joined:
                before, tags = runs[-1]
                runs[-1] = (before + raw, [*tags, tag])
            else:
                runs.append((raw, [tag]))
            joined = tag not in self._varying
        return runs

    def read(self, content: bytes) -> RawHeader:
        """Return what another file of the series holds, as it would be read as a whole.

        Its `file_meta` lacks Media Storage SOP Instance UID. Elements may be shared: replace them,
        and do not change them.

        Raises
        ------
        UnusualEncodingError, struct.error
            If that has to be done.
        """
        at = self._meta.end_in(content)
        if self._implicit == looks_explicit(content, at):
            raise UnusualEncodingError
        elements = dict(self._elements)
        last, varying = 0, set[BaseTag]()
        for run, tags in self._runs:
            if content.startswith(run, at):
                at, last = at + len(run), tags[-1]
                continue
            for tag in tags:
                raw = self._raw[tag]
                if not content.startswith(raw, at):
                    varying.add(tag)
                    at = self._differing(content, at, last, tag, elements)
                else:
                    at += len(raw)
                last = tag
        at = self._differing(content, at, last, _PIXELS, elements)
        if not varying <= self._varying:
            self._varying |= varying
            self._runs = self._new_runs()
        elements[_PIXELS] = self._pixels(content, self._span(content, at))
        found = RawHeader(elements)
        found.set_original_encoding(False, True, self._dataset.original_character_set)
        found.share_values(self.values)
        found.file_meta = self._file_meta
        return found

    def _differing(
        self,
        content: bytes,
        at: int,
        last: int,
        wanted: BaseTag,
        elements: dict[BaseTag, DataElement | RawDataElement],
    ) -> int:
        """Take what stands between two elements of the template, and the second; return its end."""
        sought = int(wanted)  # compared with `BaseTag`, each takes a call of Python
        while True:
            tag, _, value, vr, end, is_open = self._span(content, at)
            if tag == PIXEL_DATA or tag > sought:
                if sought != PIXEL_DATA:  # the element is not there
                    self._require_indifferent(wanted)
                    del elements[wanted]
                elif tag != PIXEL_DATA:
                    raise UnusualEncodingError
                return at
            if is_open or tag <= last or end > len(content):
                raise UnusualEncodingError
            self._require_indifferent(tag)
            raw = RawDataElement(
                *(shared_tag(tag), vr, end - value, content[value:end]), value, self._implicit, True
            )
            elements[raw.tag] = self._understood(raw)
            if tag == sought:
                return end
            at, last = end, tag

    def _understood(self, raw: RawDataElement) -> RawDataElement:
        element = raw_element(raw, self._dataset, signed=self._signed)
        if not isinstance(element, RawDataElement) or element.VR == "SQ":
            raise UnusualEncodingError
        return element

    @staticmethod
    def _require_indifferent(tag: int) -> None:
        is_creator = tag >> 16 & 1 and tag & 0xFFFF <= 0xFF
        if tag in _DECISIVE or is_creator:
            raise UnusualEncodingError

    def _span(self, content: bytes, at: int) -> _Span:
        """Return what stands at a place."""
        vr: bytes | None = None
        if self._implicit:
            key, length = IMPLICIT(content, at)
            value = at + 8
        else:
            key, said, length = EXPLICIT(content, at)
            value, length = explicit_value(content, at + 8, said, length)
            vr = said
        tag = tag_of(key)
        is_open = length == UNDEFINED_LENGTH
        if tag == PIXEL_DATA:
            if vr not in _PIXEL_VRS:
                raise UnusualEncodingError
            return tag, at, value, _PIXEL_VRS[vr], value if is_open else value + length, is_open
        if not _FIRST_GROUP <= tag >> 16 < _PIXEL_GROUP:
            raise UnusualEncodingError
        if not is_open:
            end = value + length
        else:
            if vr is None:
                require_sequence(key, content, value)
            elif vr not in SEQUENCE_VRS:
                raise UnusualEncodingError
            end = after_sequence(content, value, implicit=vr is None)
        return tag, at, value, None if vr is None else VRS[vr], end, is_open

    def _pixels(self, content: bytes, span: _Span) -> DataElement:
        """Return the pixel data, behind which nothing may follow."""
        _, _, value, vr, end, is_open = span
        if is_open:
            stream = io.BytesIO(content)
            stream.seek(value)
            _, complete = fragments(stream)
            if not complete or stream.tell() != len(content):
                raise UnusualEncodingError
            end = len(content) - 8
        elif end != len(content):
            raise UnusualEncodingError
        if value == end:
            raise UnusualEncodingError
        element = DataElement(PIXEL_DATA, vr or "OW", content[value:end])
        element.is_undefined_length = is_open
        return element


def _is_value_of(element: RawDataElement, value: bytes) -> bool:
    """Return whether an element has the bytes of a file, but for the padding that it was given."""
    own = element.value or b""
    return own == value or (len(value) % 2 == 1 and own[:-1] == value)
