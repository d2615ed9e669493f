"""What CITATION.cff says of the software is what the package says of itself."""

import tomllib

from repository import ROOT

from kspacesr_rt import __version__


def test_the_citation_is_of_this_version_under_this_licence():
    """Who cites a release must not name another one."""
    fields = dict(
        line.split(": ", 1)
        for line in (ROOT / "CITATION.cff").read_text().splitlines()
        if ": " in line and not line.startswith(" ")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert fields["version"] == __version__
    assert fields["license"] == project["license"]
    assert fields["title"].strip('"').startswith(project["name"] + ":")
    assert fields["keywords"] == f"[{', '.join(project['keywords'])}]"
