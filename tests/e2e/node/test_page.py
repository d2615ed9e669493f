"""The node's status page: what it says, and that it can be read."""

from __future__ import annotations

import re
import urllib.request

import pytest
from chromium import Page, needs_chromium
from node_cases import PATIENCE_S, Running, wait_until

from kspacesr_rt.services.node.status_page import page

SECTIONS = {
    "Series in the spool now": {"waiting to be sent": 3},
    "Since the start, 2026-11-23 08:00": {"instances received": 1234567},
    "Target " + "A" * 16 + "@" + "archive." * 12 + "example:104, since the start": {"<b>": "&"},
}


def test_the_page_says_what_is_now_and_what_was_since_the_start(tmp_path):
    """A number without its time tells an operator nothing."""
    with Running(tmp_path / "spool", http_port=0) as node:
        wait_until(lambda: "http_port=" in node.text.getvalue(), "the port")
        port = int(node.text.getvalue().partition("http_port=")[2].split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings[0] == "Series in the spool now"
    assert re.fullmatch(r"Since the start, \d{4}-\d\d-\d\d \d\d:\d\d", headings[1])
    assert headings[2] == "Target PACS@192.0.2.1:104, since the start"
    assert "Running." in text
    assert len(set(re.findall(r'<th scope="row">(.*?)</th>', text))) == 17


def test_the_page_escapes_what_it_shows_and_says_when_it_cannot_work():
    """A target's name is a user's text."""
    text = page("a <b>", SECTIONS, is_healthy=False)
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert 'class="bad">Not able to work' in text


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_is_readable_on_a_phone_and_in_the_dark(tmp_path, width, scheme):
    """Nothing has to be scrolled sideways, and nothing is grey on grey."""
    file = tmp_path / "page.html"
    file.write_text(page("kspacesr-rt node KSPACESR", SECTIONS, is_healthy=True))
    with Page(
        tmp_path / "profile", width=width, mobile=width < 400, dark=scheme == "dark"
    ) as shown:
        shown.open(file)
        assert shown.run("document.documentElement.scrollWidth <= innerWidth")
        for what in ("h1", "h2", "th", "td", "p", "a"):
            assert shown.run(CONTRAST.replace("WHAT", what)) >= 4.5, what
        assert shown.problems == []


CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const probe = document.createElement('div');
  probe.style.color = 'Canvas';
  document.body.append(probe);
  const told = document.querySelector('WHAT');
  const both = [told, probe].map((one) => getComputedStyle(one).color);
  probe.remove();
  const [low, high] = both.map(light).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
})()"""
"""Contrast of a text to the page (WCAG 2.2, 1.4.3)."""
