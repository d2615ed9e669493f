"""What differs between the pages in the checkout and those of the site.

The site also has pages from outside of docs, leads links to where they are there, and shows the
names of Python from their docstrings with links between them: `write_pages.py` writes the same into
the checkout, as text.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")
FROM_DOCSTRING = re.compile(
    r"^<!-- generated: python (?P<path>\S+?)(?: as (?P<name>\S+?))?(?:: (?P<members>[^\n]+?))? -->$"
    r".*?^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
CARDS = "kspacesr_rt/model/shipped"


def pages_from_elsewhere() -> dict[str, str]:
    """Return pages of the checkout that lie outside of docs, and where the site has them."""
    names = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "STYLE.md")
    cards = sorted(path.name for path in (DOCS.parent / CARDS).glob("*.md"))
    return {name: f"project/{name}" for name in names} | {
        f"{CARDS}/{name}": f"reference/models/{name}" for name in cards
    }


def on_files(files: Any, *, config: Any) -> Any:
    """Take the pages from elsewhere into the site; MkDocs calls this once."""
    from mkdocs.structure.files import File

    for source, target in pages_from_elsewhere().items():
        files.append(File.generated(config, target, abs_src_path=str(DOCS.parent / source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn a page of the checkout into one of the site; MkDocs calls this for each."""
    elsewhere = pages_from_elsewhere()
    own = page.file.src_uri
    source = {target: source for source, target in elsewhere.items()}.get(own, f"docs/{own}")

    def in_the_site(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = elsewhere.get(place) or place.removeprefix("docs/")
        if place not in elsewhere and not place.startswith("docs/"):
            return text  # a file of the checkout that the site does not have
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(own))}{anchor})"

    return LINK.sub(in_the_site, FROM_DOCSTRING.sub(_for_mkdocstrings, markdown))


def _for_mkdocstrings(block: re.Match[str]) -> str:
    lines = [f"::: {block['path']}"]
    options: dict[str, Any] = {"heading": block["name"]} if block["name"] else {}
    if block["members"]:
        # Members with two underscores would be filtered out, were they not named.
        options |= {"members": block["members"].split(), "filters": []}
    if options:
        lines.append("    options:")
        lines += [f"      {name}: {json.dumps(value)}" for name, value in options.items()]
    return "\n".join(lines)
