"""The documentation as a site: it builds without a warning, and reads in a closed network."""

import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from chromium import Page, needs_chromium
from repository import ROOT

PHONE = 375
"""CSS pixels."""
needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="pip install --group docs"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build it, strictly: a dead link or anchor, or a page outside the menu, is an error.

    ``KSPACESR_RT_SITE`` names what was built so already, as CI does beside its unit tests.
    """
    if built := os.environ.get("KSPACESR_RT_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@needs_mkdocs
def test_nothing_is_loaded_from_elsewhere(site):
    """No font, script, style or picture of another host: a hospital's network ends at its door."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(https?:[^\"]*)", text)
        loaded += re.findall(
            r"<link\b[^>]*\brel=\"(?:stylesheet|preconnect|preload|icon)\"[^>]*"
            r"\bhref=\"(https?:[^\"]*)",
            text,
        )
        assert not loaded, page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?https?:", style.read_text()), style


@needs_mkdocs
def test_what_is_made_from_the_code_is_in_the_pages(site):
    """Of Python from the docstrings, with links between the names."""
    assert 'id="seed-table"' in (site / "reference" / "cli.html").read_text()
    names = (site / "reference" / "api.html").read_text()
    assert "<!-- generated:" not in names
    for name in ("pipeline.array_model.load", "pipeline.array_model.Model.__call__", "errors"):
        assert f'id="kspacesr_rt.{name}' in names, name


@needs_mkdocs
def test_cards_and_changes_are_pages_too(site):
    """They lie elsewhere in the checkout; who reads offline has them beside the rest."""
    results = (site / "results.html").read_text()
    assert 'href="reference/models/x2-fast.html"' in results
    assert "Limits" in (site / "reference" / "models" / "x4-base.html").read_text()
    assert "Unreleased" in (site / "project" / "CHANGELOG.html").read_text()


@needs_mkdocs
@needs_chromium
@pytest.mark.parametrize(
    "page", ["", "reference/report.html", "results.html", "explanation/how-it-works.html"]
)
def test_a_page_fits_a_phone_and_asks_nobody(page, address, tmp_path):
    """Wide tables scroll by themselves; the page does not."""
    with Page(tmp_path, width=PHONE, height=740, mobile=True) as shown:
        shown.call("Page.navigate", url=f"{address}/{page}")
        shown.wait("document.readyState === 'complete' && !!document.querySelector('article')")
        assert shown.run("document.documentElement.scrollWidth") <= PHONE
        assert not shown.problems
        asked = {url for url in shown.requests if not url.startswith("data:")}
        assert asked
        assert all(url.startswith(address) for url in asked), asked
        missing = "[...document.images].filter(one => !one.naturalWidth).map(one => one.src)"
        assert shown.run(missing) == []


@needs_mkdocs
@needs_chromium
def test_pages_are_found_without_a_server(site, tmp_path):
    """Carried over on a stick and opened as files, the site still has its search."""
    with Page(tmp_path) as shown:
        shown.open(site / "how-to" / "infer.html")
        shown.run(
            "(() => { const query = document.querySelector('[data-md-component=search-query]');"
            "query.focus(); query.value = 'mercure';"
            "query.dispatchEvent(new Event('input', { bubbles: true }));"
            "query.dispatchEvent(new KeyboardEvent('keyup', { key: 'e', bubbles: true })); })()"
        )
        found = "[...document.querySelectorAll('.md-search-result__item a')].map(one => one.href)"
        shown.wait(f"{found}.length > 0", 60)
        assert any("how-to/mercure.html" in link for link in shown.run(found))
        assert not shown.problems
        assert all(url.startswith(("file:", "data:")) for url in shown.requests)


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=str)
def test_pictures_say_what_they_show(picture):
    """Who does not see a drawing hears its title and description."""
    root = ET.parse(picture).getroot()
    if picture.name == "favicon.svg":
        return
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert root.find(f"{space}title").text
    assert len(root.find(f"{space}desc").text) > 100
