"""Classic and Enhanced MR DICOM in, derived MR DICOM out.

>>> scan = scan_folder(Path("study"))                                    # doctest: +SKIP
>>> decoded = read_slice(scan.series[0].slices[0])                       # doctest: +SKIP
>>> derived = derive(decoded, sr_values, derivation)                     # doctest: +SKIP
>>> write_atomically(derived, output_path(Path("out"), derived))         # doctest: +SKIP
"""

from kspacesr_rt.dicom.derive import derive, dropped_elements
from kspacesr_rt.dicom.enhanced_derive import derive_enhanced
from kspacesr_rt.dicom.enhanced_groups import told_by_frame
from kspacesr_rt.dicom.enhanced_pixels import FrameReader, read_slices
from kspacesr_rt.dicom.enhanced_store import EnhancedWriter
from kspacesr_rt.dicom.pixels import (
    DecodedSlice,
    decode_slice,
    load_slice,
    read_slice,
    to_stored,
)
from kspacesr_rt.dicom.provenance import Derivation
from kspacesr_rt.dicom.scan import (
    LeftOut,
    Scan,
    Series,
    look_at,
    scan_folder,
    sorted_out,
    special_file,
    status_of,
)
from kspacesr_rt.dicom.store import (
    output_path,
    prepare_output,
    stands_whole,
    write_atomically,
    writing_outputs,
)
from kspacesr_rt.dicom.triage import SourceSlice
from kspacesr_rt.dicom.uninterpolated import uninterpolated

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
    "load_slice",
    "look_at",
    "output_path",
    "prepare_output",
    "read_slice",
    "read_slices",
    "scan_folder",
    "sorted_out",
    "special_file",
    "stands_whole",
    "status_of",
    "to_stored",
    "told_by_frame",
    "uninterpolated",
    "write_atomically",
    "writing_outputs",
]
