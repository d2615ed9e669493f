"""A web viewer shows source and output: dwv (npm, GPL-3.0, not shipped) in headless Chromium."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from chromium import CHROMIUM, FLAGS, needs_chromium

from kspacesr_rt.pipeline import InferOptions, infer
from kspacesr_rt.sample import sample_folder

DWV = "dwv@0.36.4"
PAGE = """<!doctype html><meta charset="utf-8"><body>
<div id="layerGroup0" style="width:512px;height:512px;position:relative"></div>
<pre id="result">nothing was rendered</pre>
<script src="/node_modules/konva/konva.min.js"></script>
<script src="/node_modules/jszip/dist/jszip.min.js"></script>
<script type="importmap">{"imports": {"konva": "/konva.mjs", "jszip": "/jszip.mjs",
 "magic-wand-tool": "/wand.mjs", "dwv": "/node_modules/dwv/dist/dwv.min.js"}}</script>
<script type="module">
import {App, AppOptions, ViewConfig} from 'dwv';
const say = text => { document.getElementById('result').textContent = text; };
window.onerror = message => say('error: ' + message);
const app = new App();
app.init(new AppOptions({'*': [new ViewConfig('layerGroup0')]}));
app.addEventListener('loaderror', event => say('error: ' + event.error));
app.addEventListener('renderend', () => {
  const image = app.getData(app.getDataIds()[0]).image, geometry = image.getGeometry();
  const canvas = document.querySelector('canvas'), origin = geometry.getOrigin();
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let bright = 0;
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i] > 32) bright++;
  say(JSON.stringify({
    size: geometry.getSize().getValues(), spacing: geometry.getSpacing().getValues(),
    origin: [origin.getX(), origin.getY(), origin.getZ()],
    bright: 4 * bright / pixels.length,
  }));
});
app.loadURLs(['/' + location.hash.slice(1)]);
</script>"""
MODULES = {
    "konva.mjs": "export default window.Konva;",
    "jszip.mjs": "export default window.JSZip;",
    "wand.mjs": "export default {};",
}
"""What dwv imports by name; its drawing tools are not used here."""

JAVASCRIPT = "text/javascript"

pytestmark = needs_chromium


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": JAVASCRIPT}

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Serve a folder with dwv and the page; yields the folder and its address."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which brings dwv, is not installed")
    folder = tmp_path_factory.mktemp("dwv")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
    try:
        subprocess.run([*command, DWV], check=True, capture_output=True, timeout=180)
    except (subprocess.SubprocessError, OSError) as exc:
        pytest.skip(f"npm cannot get {DWV} here ({type(exc).__name__})")
    (folder / "index.html").write_text(PAGE)
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def shown(site, file: Path, profile: Path):
    """Return what dwv says of a file that it rendered."""
    folder, address = site
    shutil.copy(file, folder / file.name)
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f"--user-data-dir={profile}"),
            *("--virtual-time-budget=20000", "--dump-dom", f"{address}/index.html#{file.name}"),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = html.unescape(re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    assert told.startswith("{"), told
    return json.loads(told)


def test_dwv_shows_the_output_where_the_source_was(site, tmp_path):
    """Twice the samples, half the spacing, the same corner, and a head rather than noise."""
    source = sorted(sample_folder().glob("*.dcm"))[8]
    infer(source, tmp_path / "out", InferOptions(backend="zero-fill"))
    (derived,) = (tmp_path / "out").glob("*/*.dcm")
    before = shown(site, source, tmp_path / "profile")
    after = shown(site, derived, tmp_path / "profile")
    assert after["size"] == [2 * n for n in before["size"][:2]] + before["size"][2:]
    assert after["spacing"][:2] == pytest.approx([mm / 2 for mm in before["spacing"][:2]])
    assert after["origin"] == pytest.approx(before["origin"])
    assert 0.05 < before["bright"] < 0.8
    assert after["bright"] == pytest.approx(before["bright"], rel=0.05)
