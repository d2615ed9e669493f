"""What a function returns: our docstrings describe it, and leave its type to the signature.

Griffe reads the first line below ``Returns`` as a type. It is given the one of the signature.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^((?:Returns|Yields)\n-+\n)(?=[ ]{4})", re.MULTILINE)


class ReturnsWithType(griffe.Extension):
    """Puts the annotation in front of a description that stands alone."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Change the docstring of a function before it is parsed."""
        if func.docstring is not None and func.returns is not None:
            returns = str(func.returns)
            func.docstring.value = SECTION.sub(
                lambda found: f"{found[1]}{returns}\n", func.docstring.value
            )
