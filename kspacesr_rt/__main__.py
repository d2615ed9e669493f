"""``python -m kspacesr_rt`` is the command line."""

from kspacesr_rt.cli import main

main()
