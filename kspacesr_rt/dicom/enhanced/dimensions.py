"""Keep the dimensions of an Enhanced MR file true where they name private elements.

Philips orders the frames of arterial spin labelling by a private element, control or label. Where
private elements are dropped, those that a dimension names have to stay (PS3.3 C.7.6.17: each
Dimension Index Pointer points at an attribute that is there), and nothing else of their blocks.
Where the source lacks them, the dimension goes, with its index values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from kspacesr_rt.dicom.attributes import items, value_of
from kspacesr_rt.dicom.enhanced.groups import FunctionalGroups
from kspacesr_rt.dicom.parse_errors import PARSE_ERRORS
from kspacesr_rt.dicom.raw_header import RawHeader, items_of

DANGLING: Final = "a dimension names a private element that is not there: dropped"
"""What a record tells of a file whose dimensions are incomplete."""

_Element = DataElement | RawDataElement


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pointer:
    """A tag, and the creator of its block if it is private."""

    tag: BaseTag
    creator: str

    def find(self, dataset: Dataset) -> tuple[_Element, ...]:
        """Return the element, before it its private creator; nothing if it is not there."""
        try:
            if not self.tag.is_private:
                return (dataset.get_item(self.tag),) if self.tag in dataset else ()
            block = dataset.private_block(self.tag.group, self.creator)
            tag = block.get_tag(self.tag.element & 0xFF)
            creator = BaseTag(tag.group << 16 | tag.element >> 8)
            return (dataset.get_item(creator), dataset.get_item(tag)) if tag in dataset else ()
        except PARSE_ERRORS:
            return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dimension:
    """A dimension that a private element orders."""

    index: int
    """Among the dimensions."""
    element: _Pointer
    group: _Pointer | None
    """The functional group that holds the element; None outside of groups."""

    def find(self, groups: Dataset) -> tuple[tuple[_Element, ...], tuple[_Element, ...]]:
        """Return the group's and the element's own elements in some functional groups."""
        if self.group is None:
            return (), self.element.find(groups)
        found = self.group.find(groups)
        found_items = _items(groups, found[-1].tag) if found else ()
        inner = self.element.find(found_items[0]) if found_items else ()
        return (found, inner) if inner else ((), ())


def _items(groups: Dataset, tag: BaseTag) -> tuple[Dataset, ...]:
    element = groups.get_item(tag)
    try:
        value = items_of(element, groups) if isinstance(element, RawDataElement) else element.value
    except (OSError, *PARSE_ERRORS):
        return ()
    return tuple(value) if isinstance(value, Sequence) else ()


def _dimensions(root: Dataset) -> Iterator[_Dimension]:
    for index, item in enumerate(items(root, "DimensionIndexSequence")):
        pointers = [
            _Pointer(tag=BaseTag(tag), creator=str(value_of(item, creator) or "").strip())
            for keyword, creator in (
                ("DimensionIndexPointer", "DimensionIndexPrivateCreator"),
                ("FunctionalGroupPointer", "FunctionalGroupPrivateCreator"),
            )
            if isinstance(tag := value_of(item, keyword), int)
        ]
        if pointers and pointers[0].tag.is_private:
            group = pointers[1] if len(pointers) > 1 else None
            yield _Dimension(index=index, element=pointers[0], group=group)


def _is_there(dimension: _Dimension, root: Dataset, groups: FunctionalGroups) -> bool:
    """Return whether every frame has the element, by itself or with the others."""
    if dimension.find(groups.shared)[1] or (dimension.group is None and dimension.find(root)[1]):
        return True
    return bool(groups.frames) and all(dimension.find(frame)[1] for frame in groups.frames)


def dangles(root: Dataset, groups: FunctionalGroups) -> bool:
    """Return whether a dimension names a private element that is not in every frame."""
    return any(not _is_there(dimension, root, groups) for dimension in _dimensions(root))


@dataclass(kw_only=True, slots=True)
class PrivateDimensions:
    """The private elements by which frames are ordered, taken out before private ones go."""

    _found: list[tuple[Dataset, tuple[_Element, ...], tuple[_Element, ...]]]
    _dangling: list[int]

    @classmethod
    def of(cls, root: Dataset) -> PrivateDimensions:
        """Look a header through."""
        groups, found, dangling = FunctionalGroups(root), [], []
        for dimension in _dimensions(root):
            if not _is_there(dimension, root, groups):
                dangling.append(dimension.index)
                continue
            for place in (root, groups.shared, *groups.frames):
                outer, inner = dimension.find(place)
                if inner:
                    found.append((place, outer, inner))
        return cls(_found=found, _dangling=dangling)

    def put_back(self, root: Dataset) -> None:
        """Put the elements back into the header that `of` has seen; drop dimensions without."""
        for place, outer, inner in self._found:
            target = place
            if outer:
                *creators, sequence = outer
                for creator in creators:
                    target[creator.tag] = creator
                if sequence.tag not in target:
                    target[sequence.tag] = DataElement(sequence.tag, "SQ", Sequence([RawHeader()]))
                if isinstance(target.get_item(sequence.tag), RawDataElement):
                    continue  # kept as bytes, with all that stands in it
                target = target[sequence.tag].value[0]
            for element in inner:
                target[element.tag] = element
        if self._dangling:
            _drop(root, self._dangling)


def _drop(root: Dataset, dangling: list[int]) -> None:
    kept = [item for index, item in enumerate(root.DimensionIndexSequence) if index not in dangling]
    root.DimensionIndexSequence = Sequence(kept)
    for content in FunctionalGroups(root).every("FrameContentSequence"):
        values = value_of(content, "DimensionIndexValues")
        values = [values] if isinstance(values, int) else list(values or ())
        if values:
            content.DimensionIndexValues = [
                value for index, value in enumerate(values) if index not in dangling
            ]
