"""pynetdicom as the node takes it."""

import socket
from types import SimpleNamespace

from kspacesr_rt.services.node.pynetdicom_setup import load_pynetdicom


def test_a_connection_that_is_broken_is_closed():
    """A node that cannot reach its target opens many; their files were left to chance."""
    load_pynetdicom()
    from pynetdicom.transport import AssociationSocket

    with socket.socket() as refused:  # connected to nobody
        AssociationSocket._shutdown_socket(SimpleNamespace(socket=refused))
        assert refused.fileno() == -1
