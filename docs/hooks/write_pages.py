"""Write the parts of pages that are made from the code: ``python docs/hooks/write_pages.py``.

Such a part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; `MAKERS` has the
names. They are written into the checkout, so that whoever reads a page there, without the site,
has all of it. A test fails while a page is not what this would write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from docstrings import python_name
from references import (
    command_line,
    exit_codes,
    metrics,
    model_provenance,
    model_specification,
    report_fields,
    shared_variables,
)

DOCS = Path(__file__).parents[1]
PART = re.compile(
    r"^<!-- generated: (?P<name>[a-z-]+)(?: (?P<rest>[^\n]+?))? -->$.*?^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
MAKERS: dict[str, Callable[[], str]] = {
    "command-line": command_line,
    "exit-codes": exit_codes,
    "metrics": metrics,
    "model-specification": model_specification,
    "model-provenance": model_provenance,
    "report-fields": report_fields,
    "shared-variables": shared_variables,
}


def written(text: str) -> str:
    """Return a page with its generated parts as the code wants them."""

    def replaced(part: re.Match[str]) -> str:
        made = python_name(part["rest"]) if part["name"] == "python" else MAKERS[part["name"]]()
        head = part[0].split("\n", 1)[0]
        return f"{head}\n\n{made.strip()}\n\n<!-- end -->"

    return PART.sub(replaced, text)


def pages() -> Iterator[Path]:
    """Yield the pages that have generated parts."""
    for path in sorted(DOCS.rglob("*.md")):
        if PART.search(path.read_text(encoding="utf-8")):
            yield path


def main() -> None:
    """Write each page that is not current, and name it."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := written(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
