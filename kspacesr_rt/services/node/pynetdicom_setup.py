"""Import pynetdicom with its log off, and the transfer syntaxes that the node speaks."""

from __future__ import annotations

import contextlib
import logging
import socket
from types import ModuleType
from typing import Any, Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    RLELossless,
)

from kspacesr_rt.dicom.codecs import DECODER_DEPENDENCIES, is_available
from kspacesr_rt.errors import BackendUnavailableError

STORED_CLASSES: Final = (
    MRImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
)
"""What the node takes. The last is refused by the pipeline, which says what to send instead;
other classes are refused when the association is negotiated, so that their sender knows."""
_NATIVE: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
)
_LOSSLESS: Final = (
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
)


def accepted_syntaxes() -> list[str]:
    """Return what the pipeline can decode here, lossy ones last.

    A sender that offers several lets the node choose: it must not be asked to lose anything.
    """
    decodable = [uid for uid in DECODER_DEPENDENCIES if is_available(uid)]
    lossless = [uid for uid in _LOSSLESS if uid in decodable]
    lossy = [uid for uid in decodable if uid not in _LOSSLESS]
    return [*_NATIVE, *lossless, *lossy]


def load_pynetdicom() -> ModuleType:
    """Import pynetdicom; its log lines quote data sets, so they go nowhere.

    Raises
    ------
    BackendUnavailableError
        If it is not installed.
    """
    try:
        import pynetdicom
        from pynetdicom import _config, transport
    except ModuleNotFoundError as exc:
        raise BackendUnavailableError(
            "a DICOM node needs the package 'pynetdicom'", hint="pip install 'kspacesr-rt[serve]'"
        ) from exc
    _config.LOG_HANDLER_LEVEL = "none"
    # Files are sent as they are, without a decoder in between.
    _config.STORE_SEND_CHUNKED_DATASET = True
    logger = logging.getLogger("pynetdicom")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    connection: Any = transport.AssociationSocket
    connection._shutdown_socket = _end_connection
    return pynetdicom


def _end_connection(connection: Any) -> None:
    """Close a connection, a broken one too, whose file pynetdicom 3.0 leaves to chance."""
    held = connection.socket
    if held is None:
        return
    with contextlib.suppress(OSError):  # it was refused, or the other side has reset it
        held.shutdown(socket.SHUT_RDWR)
    held.close()
