"""The status page: what is in the spool now, and what has happened since the start."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Final

Sections = Mapping[str, Mapping[str, object]]
"""Names and values below each heading."""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --quiet: light-dark(#595959, #a8a8a8);
  --line: light-dark(#ddd, #444); --bad: light-dark(#b00020, #ff8a80); }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1.5em auto;
  padding: 0 1em; max-width: 44em; }}
h1 {{ font-size: 1.4em; margin: 0; }}
h2 {{ font-size: 1em; margin: 1.6em 0 .3em; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; width: 100%; }}
tr {{ border-top: 1px solid var(--line); }}
th, td {{ padding: .25em 0; text-align: left; font-weight: normal; vertical-align: top; }}
td {{ text-align: right; padding-left: 1em; font-variant-numeric: tabular-nums; }}
p, th {{ color: var(--quiet); }}
.bad {{ color: var(--bad); font-weight: bold; }}
</style></head>
<body><h1>{title}</h1>
<p role="status"{mark}>{state}</p>
{sections}
<p>Renewed every 5 seconds; times are UTC. Numbers for monitoring: <a href="/metrics">/metrics</a>,
<a href="/health">/health</a>. Research software: detail outside the measured k-space is predicted,
not measured.</p></body></html>
"""


def page(title: str, sections: Sections, *, is_healthy: bool) -> str:
    """Return the page as HTML; every text in it is escaped."""
    return _PAGE.format(
        title=html.escape(title),
        state="Running." if is_healthy else "Not able to work: see the log.",
        mark="" if is_healthy else ' class="bad"',
        sections="\n".join(_section(name, rows) for name, rows in sections.items()),
    )


def _section(name: str, rows: Mapping[str, object]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{html.escape(what)}</th><td>{html.escape(str(value))}</td></tr>'
        for what, value in rows.items()
    )
    return f"<h2>{html.escape(name)}</h2>\n<table>{lines}</table>"
