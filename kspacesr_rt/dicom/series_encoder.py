"""Encode the outputs of a series: the first as pydicom would, the others by what differs.

Within a series nearly every element of the derived header is the same. So the bytes of one output
serve the next: what its source has else is put in its place, with what follows from pixels,
position and time. `derive` stays what an output is: every template is compared to it, byte for
byte, before it is believed, and what does not fit one goes that way.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from pydicom.charset import default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from kspacesr_rt.dicom import geometry, provenance
from kspacesr_rt.dicom.attributes import is_signed, numbers
from kspacesr_rt.dicom.compress import native_samples
from kspacesr_rt.dicom.content_digest import digest_by_parts, pixel_digest
from kspacesr_rt.dicom.derive import (
    derive,
    impose_padding,
    name_series,
    new_file_meta,
    require_sr_matrix,
)
from kspacesr_rt.dicom.fast.repeated_skim import RepeatedSkim
from kspacesr_rt.dicom.header_counts import HeaderCounts
from kspacesr_rt.dicom.output_identity import EQUIPMENT, SET_AT_CREATION, undated
from kspacesr_rt.dicom.padding import padded_bytes, plainly_padded
from kspacesr_rt.dicom.pixels import DecodedSlice, IntArray, occurs, to_stored
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.raw_header import (
    PIXEL_DATA,
    RawHeader,
    element_bytes,
    header_copy,
    write_elements,
)
from kspacesr_rt.dicom.source_digest import EXTREMES, PADDING, SourceDigest
from kspacesr_rt.dicom.source_only_attributes import drop_source_only, dropped_kind
from kspacesr_rt.dicom.store import encode
from kspacesr_rt.dicom.suppressed_warnings import quiet_pydicom
from kspacesr_rt.kspace import FloatArray

Element = DataElement | RawDataElement
CharacterSet = str | list[str] | None
PLANS_MAX: Final = 64
"""Sets of tags that slices of a series have other pieces for, each with the rest joined."""
N_TEMPLATES: Final = 8
"""Made of a series, one after another: each output that does not fit, until so many did not."""


def _tags(*keywords: str) -> frozenset[int]:
    return frozenset(tag_for_keyword(keyword) or 0 for keyword in keywords)


DECISIVE: Final = _tags(
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "SOPClassUID", "ImageType"),
    *("ContentQualification", "SyntheticData", "LossyImageCompression"),
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID"),
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"),
    *("ReferencedSeriesSequence", "ContributingEquipmentSequence"),
    *("PixelSpacing", "ImageOrientationPatient", "Rows", "Columns", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
"""What other elements of an output follow from, or what it has in another way than its source: a
source that has another value of one of these needs a template of its own."""
SERIES_NAMES: Final = _tags("SeriesInstanceUID", "SeriesNumber", "SeriesDescription")
"""Of these, what else but the names of a series in its outputs follows."""
_UID, _POSITION, _CREATED_ON, _CREATED_AT = (
    tag_for_keyword(keyword) or 0
    for keyword in (
        *("SOPInstanceUID", "ImagePositionPatient"),
        *("InstanceCreationDate", "InstanceCreationTime"),
    )
)
_EXTREMES: Final = tuple(sorted(EXTREMES))
_EQUIPMENT: Final = tag_for_keyword(EQUIPMENT) or 0
_REFERENCES: Final = tuple(sorted(_tags("SourceImageSequence", "ReferencedSeriesSequence")))
"""Sequences that name the source."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedSlice:
    """An output, ready to be written."""

    sop_instance_uid: str
    """Its own."""
    series_instance_uid: str
    """Of its series."""
    samples: IntArray
    """What is stored, ``(s*y, s*x)``."""
    source_digest: str
    """See `kspacesr_rt.dicom.source_digest`."""
    head: bytes
    """The uncompressed file up to its pixels; empty where there is a data set."""
    pixel_digest: str
    """See `kspacesr_rt.dicom.content_digest`; empty likewise."""
    dataset: Dataset | None
    """From `derive`; None if a template served."""

    @property
    def parts(self) -> tuple[memoryview, ...]:
        """What the file is made of, one after another, where there is no data set."""
        pixels = self.samples.data.cast("B")
        return memoryview(self.head), pixels, memoryview(bytes(len(pixels) % 2))

    @property
    def n_pixel_bytes(self) -> int:
        """Bytes of the pixels in the file, an even number."""
        return self.samples.nbytes + self.samples.nbytes % 2

    def digest(self) -> str:
        """Return the digest of the file where there is no data set."""
        matrix = self.samples.shape[0], self.samples.shape[1]
        tail = bytes(self.samples.nbytes % 2)
        return digest_by_parts(
            self.head, matrix, self.samples.itemsize, self.pixel_digest, tail=tail
        )


class SeriesEncoder:
    """Makes outputs of the slices of one series, whose derivation is the same; for any threads."""

    def __init__(
        self,
        derivation: Derivation,
        counts: HeaderCounts | None = None,
        *,
        earlier: SeriesEncoder | None = None,
    ) -> None:
        """Begin with nothing.

        Parameters
        ----------
        derivation
            Of all of them.
        counts
            Told of every header.
        earlier
            Of another series of the run: what it has proved is tried on this one first.
        """
        self._derivation, self._counts = derivation, counts or HeaderCounts()
        self._lock = threading.Lock()
        self._template: _Template | None = None
        self._n_templates = 0
        self._earlier = earlier
        self.headers: RepeatedSkim = RepeatedSkim() if earlier is None else earlier.headers
        """Reads those of outputs back, by what they have in common."""

    def encode(
        self, decoded: DecodedSlice, sr_values: FloatArray, *, whole: bool = False
    ) -> EncodedSlice:
        """Make an output; see `kspacesr_rt.dicom.derive.derive` for what it is and what it raises.

        Parameters
        ----------
        decoded
            The source, which is not changed.
        sr_values
            Real-world values, float32 ``(upscale * y, upscale * x)``.
        whole
            Make a data set in any case.

        Raises
        ------
        SliceFailed
            As `derive` and `kspacesr_rt.dicom.store.encode`.
        """
        with quiet_pydicom():
            moment = provenance.now_for(decoded.dataset)
            if whole:
                self._counts.add("encoded-compressed")
                return self._reference(decoded, sr_values, moment)
            uid = _uid_bytes(decoded.dataset)
            template = self._template
            if template is not None and template.proved and template.fits(decoded.dataset, uid):
                self._counts.add("encoded-repeated")
                return template.fill(decoded, sr_values, moment, uid)
            if self._n_templates < N_TEMPLATES or (template is not None and not template.proved):
                with self._lock:  # two would make, and prove, it twice
                    return self._learn(decoded, sr_values, moment, uid)
            self._counts.add("encoded-differing")
            return self._reference(decoded, sr_values, moment)

    def _learn(
        self, decoded: DecodedSlice, sr_values: FloatArray, moment: datetime, uid: bytes
    ) -> EncodedSlice:
        """Make an output, and a template of it, or prove the one that is there."""
        if self._earlier is not None:
            earlier, self._earlier = self._earlier._latest(), None
            if earlier is not None and earlier.derivation == self._derivation:
                self._template = earlier.of_series(decoded.dataset, moment)
                self._n_templates += self._template is not None
        template = self._template
        if template is not None and template.fits(decoded.dataset, uid):
            found = template.fill(decoded, sr_values, moment, uid)
            if template.proved:  # meanwhile
                self._counts.add("encoded-repeated")
                return found
            self._counts.add("encoded-proof")
            expected = self._reference(decoded, sr_values, moment)
            template.proved = _is_alike(found, expected)
            if template.proved:
                return found
            # Whatever it is that this series has; if it was another's, it has one of its own.
            self._template = None
            if not template.adopted:
                self._n_templates = N_TEMPLATES
            return expected
        self._counts.add("encoded-differing" if self._n_templates else "encoded-first")
        expected = self._reference(decoded, sr_values, moment)
        if self._n_templates < N_TEMPLATES:
            assert expected.dataset is not None
            self._n_templates += 1
            self._template = _Template.of(
                decoded.dataset, expected.dataset, self._derivation, moment
            )
        return expected

    def _latest(self) -> _Template | None:
        """Return the last template of this series, or of one before it."""
        encoder: SeriesEncoder | None = self
        while encoder is not None and encoder._template is None:
            encoder = encoder._earlier
        return None if encoder is None else encoder._template

    def _reference(
        self, decoded: DecodedSlice, sr_values: FloatArray, moment: datetime
    ) -> EncodedSlice:
        derived = derive(decoded, sr_values, self._derivation, moment=moment)
        return EncodedSlice(
            sop_instance_uid=str(derived.SOPInstanceUID),
            series_instance_uid=str(derived.SeriesInstanceUID),
            samples=native_samples(derived),
            source_digest=SourceDigest.of_slice(derived, decoded).hexdigest(),
            head=b"",
            pixel_digest="",
            dataset=derived,
        )


def _is_alike(found: EncodedSlice, expected: EncodedSlice) -> bool:
    """Return whether an output of a template is, byte for byte, the one that `derive` makes."""
    assert expected.dataset is not None
    return found.source_digest == expected.source_digest and b"".join(found.parts) == encode(
        expected.dataset
    )


class _Template:
    """One output in pieces, and the source that it was made from."""

    def __init__(
        self,
        source: Dataset,
        derivation: Derivation,
        pieces: Mapping[int, bytes],
        plain: Mapping[int, bytes],
        *,
        references: Mapping[int, Element],
        series_uid: str,
        character_set: CharacterSet,
        is_there: frozenset[int],
    ) -> None:
        self.proved = self.adopted = False
        """Whether an output of it was found to be what `derive` makes, and whether the source that
        it was made from is of another series."""
        self.derivation = derivation
        self._source: dict[BaseTag, Element] = {
            tag: source.get_item(tag)
            for tag in source.keys()  # noqa: SIM118 - iterating gives elements
        }
        self._encodings = source.original_character_set
        # What of the next source is compared to this one's and carried over if it is another.
        self._compared = [
            (tag, element)
            for tag, element in self._source.items()
            if int(tag) in pieces and int(tag) not in DECISIVE | _HANDLED and not self._drops(tag)
        ]
        self._decisive = [
            (tag, element) for tag, element in self._source.items() if int(tag) in DECISIVE
        ]
        self._matrix = (int(source.Rows), int(source.Columns))
        self._value_vr = "SS" if is_signed(source) else "US"
        self._padded = any(tag in self._source for tag in PADDING)
        self._padding = numbers(source, "PixelPaddingValue")[:1]
        self._padding += numbers(source, "PixelPaddingRangeLimit")[:1] if self._padding else ()
        self._syntax = _syntax_of(source)
        self._order = sorted(pieces)
        self._pieces, self._plain = pieces, plain
        self._series_uid, self._character_set = series_uid, character_set
        self._is_there = is_there
        uid = _uid_bytes(source)
        self._uid, self._sequences = uid, references
        own = {tag: (pieces[tag], plain[tag]) for tag in references}
        self._references = {len(uid): (uid, own)}
        self._meta: dict[int, tuple[bytes, bytes]] = {}
        self._plans: dict[tuple[bool, frozenset[int], frozenset[int]], list[bytes | int]] = {}
        """What is joined to a header: bytes that all have, and tags of what each has its own of."""

    @classmethod
    def of(
        cls, source: Dataset, derived: Dataset, derivation: Derivation, moment: datetime
    ) -> _Template | None:
        """Take an output to pieces; return None if they could not be told apart again."""
        character_set = derived.get("SpecificCharacterSet")
        dated = undated(derived)
        pieces: dict[int, bytes] = {}
        plain: dict[int, bytes] = {}
        kept = header_copy(source)
        drop_source_only(kept, keep_private=derivation.keep_private)
        whole: dict[int, Element] = {int(tag): kept.get_item(tag) for tag in PADDING & kept.keys()}
        whole |= {int(tag): derived.get_item(tag) for tag in derived.keys()}  # noqa: SIM118 - iterating gives elements
        for tag, element in whole.items():
            if tag == PIXEL_DATA:
                continue
            pieces[tag], plain[tag] = _pieces_of(element, character_set)
        for tag in dated.keys() & {_EQUIPMENT}:
            plain[int(tag)] = _pieces_of(dated.get_item(tag), character_set)[1]
        when = _when(moment)
        uid = _uid_bytes(source)
        alone = [
            pieces.get(_EQUIPMENT, b"").count(when) == 1,
            *(pieces.get(tag, b"").count(uid) == 1 for tag in _REFERENCES),
            *(plain.get(tag, b"").count(uid) == 1 for tag in _REFERENCES),
        ]
        if not all(alone):
            return None
        pieces[_EQUIPMENT] = pieces[_EQUIPMENT].replace(when, _PLACE)
        return cls(
            source,
            derivation,
            pieces,
            plain,
            references={tag: whole[tag] for tag in _REFERENCES},
            series_uid=str(derived.SeriesInstanceUID),
            character_set=character_set,
            is_there=frozenset(map(int, derived.keys())),
        )

    def of_series(self, source: Dataset, moment: datetime) -> _Template | None:
        """Return what this would be for the series of another source, still to be proved.

        None where more is different than the series' names, or they cannot be told apart.
        """
        elements = dict(source.items())
        before, after = (
            str(one.get("SeriesInstanceUID")).encode() for one in (RawHeader(self._source), source)
        )
        if (
            not self.proved
            or len(before) != len(after)
            or elements.keys() != self._source.keys()
            or _syntax_of(source) != self._syntax
            or not all(
                _same(elements[tag], one) for tag, one in self._decisive if tag not in SERIES_NAMES
            )
        ):
            return None
        twin = copy.copy(self)
        twin.proved, twin.adopted, twin._plans = False, True, {}
        twin._decisive = [(tag, elements[tag]) for tag, _ in self._decisive]
        twin._source = elements
        named = RawHeader({tag: elements[tag] for tag in elements if tag in SERIES_NAMES})
        named.set_original_encoding(False, True, source.original_character_set)
        name_series(named, source, self.derivation, moment)
        twin._series_uid = str(named.SeriesInstanceUID)
        twin._pieces, twin._plain = dict(self._pieces), dict(self._plain)
        for tag in SERIES_NAMES & self._pieces.keys():
            twin._pieces[tag], twin._plain[tag] = _pieces_of(
                named.get_item(BaseTag(tag)), self._character_set
            )
        twin._sequences = {
            tag: _with_uid(element, before, after) for tag, element in self._sequences.items()
        }
        twin._references = {}
        for n_bytes, (known, own) in self._references.items():
            if before in known or any(pair[0].count(before) > 1 for pair in own.values()):
                return None
            twin._references[n_bytes] = (
                known,
                {
                    tag: (piece.replace(before, after), digested.replace(before, after))
                    for tag, (piece, digested) in own.items()
                },
            )
        for tag in _REFERENCES:
            twin._pieces[tag] = self._pieces[tag].replace(before, after)
        return twin

    def fits(self, source: Dataset, uid: bytes) -> bool:
        """Return whether what is different of a source has no say in other elements."""
        if uid != self._uid and any(uid in self._pieces[tag] for tag in _REFERENCES):
            return False  # it is named already
        elements = dict(source.items())
        if _syntax_of(source) != self._syntax:
            return False
        if elements.keys() != self._source.keys() and not self._may_lack(elements):
            return False
        return all(_same(elements[tag], element) for tag, element in self._decisive)

    def _may_lack(self, elements: Mapping[BaseTag, Element]) -> bool:
        """Return whether what is there and here is not, and the other way round, may differ."""
        mine = self._source
        return all(tag in mine or self._drops(tag) for tag in elements) and all(
            (tag in elements) == (tag in mine) for tag in (*DECISIVE, _POSITION, *EXTREMES)
        )

    def fill(
        self, decoded: DecodedSlice, sr_values: FloatArray, moment: datetime, uid: bytes
    ) -> EncodedSlice:
        """Make the output of another source that fits, whose SOP Instance UID is `uid`."""
        source, derivation = decoded.dataset, self.derivation
        require_sr_matrix(source, sr_values, derivation.upscale)
        stored, padding = self._stored(decoded, sr_values)
        pieces: dict[int, bytes] = dict.fromkeys(PADDING - padding, b"")
        plain = dict(pieces)
        elements = dict(source.items())
        for tag, before in self._compared:
            if (element := elements.get(tag)) is None:
                pieces[tag] = plain[tag] = b""
            elif element is not before and not _same(element, before):
                pieces[tag], plain[tag] = self._encoded_pair(element)
        pieces |= self._made(source, stored)
        plain |= {tag: pieces[tag] for tag in (_POSITION, *EXTREMES) if tag in pieces}
        if _POSITION not in pieces and _POSITION in self._pieces:
            pieces[_POSITION], plain[_POSITION] = self._encoded_pair(elements[BaseTag(_POSITION)])
        known, references = self._references.get(len(uid)) or self._referring_to(len(uid))
        for one, (piece, digested) in references.items():
            pieces[one] = piece.replace(known, uid)
            plain[one] = digested.replace(known, uid)
        pixels = np.ascontiguousarray(stored)
        digest = pixel_digest(pixels)
        header_digest = self._digest(plain, SET_AT_CREATION)
        own_uid = provenance.instance_uid(
            source.SOPInstanceUID, f"{header_digest}/{digest}", derivation
        )
        pieces[_UID] = _text_bytes(_UID, "UI", own_uid)
        pieces[_CREATED_ON] = _text_bytes(_CREATED_ON, "DA", f"{moment:%Y%m%d}")
        pieces[_CREATED_AT] = _text_bytes(_CREATED_AT, "TM", f"{moment:%H%M%S.%f}")
        pieces[_EQUIPMENT] = self._pieces[_EQUIPMENT].replace(_PLACE, _when(moment))
        vr = "OW" if stored.dtype.itemsize == 2 else "OB"
        n_bytes = stored.nbytes + stored.nbytes % 2
        start = b"\xe0\x7f\x10\x00" + vr.encode() + b"\0\0" + n_bytes.to_bytes(4, "little")
        return EncodedSlice(
            sop_instance_uid=own_uid,
            series_instance_uid=self._series_uid,
            samples=pixels,
            source_digest=self._source_digest(decoded, plain),
            head=b"".join((self._file_meta(own_uid), self._joined(self._pieces, pieces), start)),
            pixel_digest=digest,
            dataset=None,
        )

    def _referring_to(self, n_bytes: int) -> tuple[bytes, dict[int, tuple[bytes, bytes]]]:
        """Return, and keep, the sequences that name the source for UIDs of another length.

        In the place of the UID stands something that occurs nowhere else in them.
        """
        stand_ins = (bytes([byte]) * n_bytes for byte in range(1, 32))
        pieces = [self._pieces[tag] for tag in self._sequences]
        stand_in = next(one for one in stand_ins if not any(one in piece for piece in pieces))
        made = {
            tag: _pieces_of(_with_uid(element, self._uid, stand_in), self._character_set)
            for tag, element in self._sequences.items()
        }
        self._references[n_bytes] = stand_in, made
        return stand_in, made

    def _stored(
        self, decoded: DecodedSlice, sr_values: FloatArray
    ) -> tuple[IntArray, frozenset[int]]:
        """Return what is stored, and which of the two padding attributes stay."""
        stored = to_stored(sr_values, decoded.dataset)
        if not self._padded:
            return stored, frozenset()
        there = frozenset(tag for tag in PADDING if tag in self._source)
        if self._padding and decoded.padding is None:
            return stored, frozenset() if occurs(stored, *self._padding) else there
        stub = RawHeader({BaseTag(tag): self._source[BaseTag(tag)] for tag in sorted(there)})
        stub.set_original_encoding(False, True, decoded.dataset.original_character_set)
        stored = impose_padding(stored, decoded.padding, stub, self.derivation)
        return stored, frozenset(map(int, stub.keys()))

    def _made(self, source: Dataset, stored: IntArray) -> dict[int, bytes]:
        """Return the pieces that follow from position and pixels."""
        derivation = self.derivation
        made: dict[int, bytes] = {}
        matrix = self._matrix
        if geometry.moves(matrix, derivation.upscale, derivation.sample_grid):
            position = geometry.sr_position_mm(
                numbers(source, "ImagePositionPatient"),
                numbers(source, "ImageOrientationPatient"),
                numbers(source, "PixelSpacing"),
                matrix,
                derivation.upscale,
                derivation.sample_grid,
            )
            made[_POSITION] = _text_bytes(_POSITION, "DS", "\\".join(geometry.as_ds(position)))
        for tag, extreme in zip(_EXTREMES, (stored.min, stored.max), strict=True):
            if tag in self._is_there:
                value = int(extreme()).to_bytes(2, "little", signed=self._value_vr == "SS")
                made[tag] = element_bytes(_raw(tag, self._value_vr, value))
        return made

    def _source_digest(self, decoded: DecodedSlice, plain: Mapping[int, bytes]) -> str:
        without_padding = {tag: piece for tag, piece in plain.items() if tag not in PADDING}
        header = self._digest(without_padding, _OF_OUTPUTS)
        there = [tag in self._is_there for tag in _EXTREMES]
        digest = SourceDigest(f"{header}/{there}")
        digest.add(decoded)
        return digest.hexdigest()

    def _digest(self, plain: Mapping[int, bytes], left_out: frozenset[int]) -> str:
        return hashlib.sha256(self._joined(self._plain, plain, left_out)).hexdigest()

    def _joined(
        self,
        common: Mapping[int, bytes],
        own: Mapping[int, bytes],
        left_out: frozenset[int] = frozenset(),
    ) -> bytes:
        """Return the pieces of an output in their order: its own, and those of the template.

        Nearly all slices have the same pieces of their own, and the rest is joined once for them.
        """
        key = common is self._pieces, frozenset(own), left_out
        if (plan := self._plans.get(key)) is None:
            plan = []
            shared = b""
            for tag in self._order:
                if tag in left_out:
                    continue
                if tag in own:
                    plan += [shared, tag]
                    shared = b""
                else:
                    shared += common[tag]
            plan.append(shared)
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[key] = plan
        return b"".join([one if isinstance(one, bytes) else own[one] for one in plan])

    def _encoded_pair(self, element: Element) -> tuple[bytes, bytes]:
        """Return an element of a source as its output has it, and as digests have it."""
        if element.VR != "SQ":
            return _pieces_of(element, self._character_set)
        one = RawHeader({element.tag: element})
        one.set_original_encoding(False, True, self._encodings)
        one = header_copy(one)
        drop_source_only(one, keep_private=self.derivation.keep_private)
        if element.tag not in one:
            return b"", b""
        return _pieces_of(one.get_item(element.tag), self._character_set)

    def _drops(self, tag: BaseTag) -> bool:
        """Return whether outputs never have an element of a source."""
        return dropped_kind(tag, keep_private=self.derivation.keep_private) is not None

    def _file_meta(self, uid: str) -> bytes:
        """Return preamble and file meta: of UIDs of one length, all but the UID is the same."""
        if (known := self._meta.get(len(uid))) is None:
            outline = Dataset()
            outline.SOPClassUID = RawHeader(dict(self._source)).get("SOPClassUID")
            outline.SOPInstanceUID = uid
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, False
            buffer.write(bytes(128) + b"DICM")
            write_file_meta_info(buffer, new_file_meta(outline), enforce_standard=True)
            before, after = buffer.getvalue().split(uid.encode())
            known = self._meta[len(uid)] = before, after
        return uid.encode().join(known)


_PLACE: Final = b"\0the moment\0"
"""Where a time stands that each output has its own of."""
_OF_OUTPUTS: Final = SET_AT_CREATION | EXTREMES
"""What of an output says nothing of its source."""
_HANDLED: Final = frozenset({_UID, _POSITION, _CREATED_ON, _CREATED_AT, PIXEL_DATA}) | EXTREMES


def _with_uid(element: Element, old: bytes, new: bytes) -> Element:
    """Return an element in which another UID stands; what has none is shared."""
    if element.VR == "SQ" and not isinstance(element, RawDataElement):
        items = [header_copy(item) for item in element.value]
        for item in items:
            for tag in list(item.keys()):
                item[tag] = _with_uid(item.get_item(tag), old, new)
        return DataElement(element.tag, "SQ", Sequence(items))
    value = element.value
    found = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    if element.VR != "UI" or found.rstrip(b"\0") != old:
        return element
    return _raw(element.tag, "UI", new + b"\0" * (len(new) % 2))


def _when(moment: datetime) -> bytes:
    return f"{moment:%Y%m%d%H%M%S.%f%z}".encode()


def _syntax_of(source: Dataset) -> str:
    return str(source.file_meta.get("TransferSyntaxUID"))


def _uid_bytes(source: Dataset) -> bytes:
    return str(source.SOPInstanceUID).encode()


def _raw(tag: int, vr: str, value: bytes) -> RawDataElement:
    return RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)


def _text_bytes(tag: int, vr: str, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return element_bytes(_raw(tag, vr, value))


def _pieces_of(element: Element, character_set: CharacterSet) -> tuple[bytes, bytes]:
    """Return an element as files and as digests have it."""
    if isinstance(element, RawDataElement) and not element.is_implicit_VR:
        return element_bytes(element), element_bytes(padded_bytes(element))
    one = RawHeader({element.tag: element})
    one.set_original_encoding(False, True, None)
    piece, plain = (_bytes_of(this, character_set) for this in (one, plainly_padded(one)))
    return piece, plain


def _bytes_of(dataset: Dataset, character_set: CharacterSet) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_elements(buffer, dataset, character_set or default_encoding)
    return buffer.getvalue()


def _same(one: Element, other: Element) -> bool:
    if one is other:  # as those are that a series shares
        return True
    if isinstance(one, RawDataElement) and isinstance(other, RawDataElement):
        return one.value == other.value and one.VR == other.VR
    if isinstance(one, RawDataElement) or isinstance(other, RawDataElement):
        return False
    if not (isinstance(one.value, Sequence) and isinstance(other.value, Sequence)):
        return bool(one.VR == other.VR and one.value == other.value)
    return len(one.value) == len(other.value) and all(
        first.keys() == second.keys()
        and all(_same(first.get_item(tag), second.get_item(tag)) for tag in first.keys())  # noqa: SIM118 - iterating gives elements
        for first, second in zip(one.value, other.value, strict=True)
    )
