"""A DICOM node: receives series, super-resolves them with `infer`, sends the results on.

::

    sender --C-STORE--> receiver -> received/ --silence--> closed/ -> processing -> processed/
                                                                                      |
    targets <--C-STORE-- forwarder <--------------------------------------------------+

`spool` is the table of states; a process killed at any point goes on where it was. Needs the extra
``serve`` (pynetdicom).
"""

from kspacesr_rt.services.log import Log
from kspacesr_rt.services.node.peers import Peer, Target, parse_peer, parse_target
from kspacesr_rt.services.node.processing import Keep
from kspacesr_rt.services.node.service import Node, NodeOptions

__all__ = ["Keep", "Log", "Node", "NodeOptions", "Peer", "Target", "parse_peer", "parse_target"]
