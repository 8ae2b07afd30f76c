"""Pages opened in headless Chromium, from the disk and without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_RESULT = re.compile(r'<pre id="found-by-the-test">(.*?)</pre>', re.DOTALL)

# Before the page's own scripts: what goes wrong from the first line on.
_LISTENER = """
<script>
window.troubles = [];
const note = (event) => troubles.push(String(event.message || event.target.src));
addEventListener("error", note, true);
addEventListener("securitypolicyviolation", (event) => troubles.push(event.blockedURI));
</script>
"""
_REPORTER = """
<script>
addEventListener("load", () => {
  const found = (() => { %s })();
  const place = document.createElement("pre");
  place.id = "found-by-the-test";
  const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  place.textContent = JSON.stringify({found, troubles, fetched});
  document.body.append(place);
});
</script>
"""


def chromium() -> str:
    """The browser; a test that needs one is skipped where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("expected Chromium to open pages with, found none")
    return found


def seen_in(
    page: str, script: str, folder: Path, *, width: int = 1280, dark: bool = False
) -> dict[str, Any]:
    """Open a page's text and return what the body of a function found in it.

    With it come `troubles`, errors and refused addresses, and `fetched`, all that was loaded. The
    page lies in a frame of `width` pixels, as no window of Chromium is narrower than 500.
    """
    reporter = _REPORTER % script
    (folder / "page.html").write_text(
        page.replace("<head>", f"<head>{_LISTENER}", 1).replace("</body>", f"{reporter}</body>"),
        encoding="utf-8",
    )
    (folder / "frame.html").write_text(
        f'<!doctype html><body><iframe src="page.html" width="{width}" height="900"></iframe>'
        "<script>addEventListener('load', () => document.body.append(frames[0].document"
        ".getElementById('found-by-the-test').cloneNode(true)))</script>",
        encoding="utf-8",
    )
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [
            chromium(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={max(500, width + 20)},1000",
            *scheme,
            "--dump-dom",
            (folder / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "HOME": str(folder)},
    )
    result = _RESULT.search(done.stdout)
    assert result is not None, done.stdout[-500:] + done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(unescape(result[1]))
    return seen
