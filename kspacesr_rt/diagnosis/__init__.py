"""Find the node where two backends, or two models, begin to disagree.

Every value of the flat graph is read on both sides. What a value differs by is *accumulated*: it
holds the errors of all nodes before. A node's *own* error is what the second side makes of the
first side's inputs, node by node; the first node whose own error is too large is the wrong one.
"""

from kspacesr_rt.diagnosis.compare import DiagnosisResult, Side, diagnose
from kspacesr_rt.diagnosis.files import diagnose_files
from kspacesr_rt.diagnosis.findings import Difference, Findings, require_agreement
from kspacesr_rt.diagnosis.repro import write_repro
from kspacesr_rt.diagnosis.runners import LOOKS_INSIDE, REFERENCE, Runner, open_runner

__all__ = [
    "LOOKS_INSIDE",
    "REFERENCE",
    "DiagnosisResult",
    "Difference",
    "Findings",
    "Runner",
    "Side",
    "diagnose",
    "diagnose_files",
    "open_runner",
    "require_agreement",
    "write_repro",
]
