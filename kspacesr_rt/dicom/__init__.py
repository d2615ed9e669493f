"""Classic and Enhanced MR DICOM in, derived MR DICOM out.

>>> scan = scan_folder(Path("study"))                                    # doctest: +SKIP
>>> decoded = read_slice(scan.series[0].slices[0])                       # doctest: +SKIP
>>> derived = derive(decoded, sr_values, derivation)                     # doctest: +SKIP
>>> write_atomically(derived, output_path(Path("out"), derived))         # doctest: +SKIP
"""

from kspacesr_rt.dicom.derive import derive, dropped_elements
from kspacesr_rt.dicom.enhanced.derive import derive_enhanced
from kspacesr_rt.dicom.enhanced.groups import naming_the_frame
from kspacesr_rt.dicom.enhanced.pixels import FrameReader, read_slices
from kspacesr_rt.dicom.enhanced.store import EnhancedWriter
from kspacesr_rt.dicom.pixels import DecodedSlice, decode_slice, load_slice, read_slice, to_stored
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.scan import (
    LeftOut,
    Scan,
    Series,
    examine_file,
    scan_folder,
    sort_into_series,
    special_file,
    status_of,
)
from kspacesr_rt.dicom.source_slice import SourceSlice
from kspacesr_rt.dicom.store import (
    is_complete_output,
    output_path,
    prepare_output,
    write_atomically,
    writing_outputs,
)
from kspacesr_rt.dicom.undo_interpolation import undo_interpolation

__all__ = [
    "DecodedSlice",
    "Derivation",
    "EnhancedWriter",
    "FrameReader",
    "LeftOut",
    "Scan",
    "Series",
    "SourceSlice",
    "decode_slice",
    "derive",
    "derive_enhanced",
    "dropped_elements",
    "examine_file",
    "is_complete_output",
    "load_slice",
    "naming_the_frame",
    "output_path",
    "prepare_output",
    "read_slice",
    "read_slices",
    "scan_folder",
    "sort_into_series",
    "special_file",
    "status_of",
    "to_stored",
    "undo_interpolation",
    "write_atomically",
    "writing_outputs",
]
