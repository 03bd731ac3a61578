"""The files of the page: what is served, and under which policy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files

import requests

from lead.http.page.routes import FILES
from tests.support.http import PATIENCE

STATIC = files("lead.http.page") / "static"


def test_nothing_but_its_own_files(url: str) -> None:
    """The policy lets nothing else in. The page itself holds no script but its import map, and no style."""
    page = requests.get(url, timeout=PATIENCE)
    assert page.headers["content-type"].startswith("text/html")
    (script,) = re.findall(r"<script[^>]*>(.+?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src")
    assert "unsafe" not in policy
    for forbidden in ("http://", "https://", "style=", "onclick", "<style"):
        assert forbidden not in page.text
    assert set(json.loads(script)["imports"].values()) <= FILES.keys()
    assert requests.get(f"{url}/static/../page.py", timeout=PATIENCE).status_code == 404


def test_every_file_has_its_type(url: str) -> None:
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    own = [path for path in FILES if path.startswith("/static/")]
    assert {"/static/js/main.js", "/static/css/page.css", "/static/vendor/idb/index.js"} <= set(own)
    for path in own:
        file = requests.get(url + path, timeout=PATIENCE)
        assert (file.status_code, file.headers["content-type"]) == (200, types[path.rpartition(".")[2]])
        if "/vendor/" not in path:
            for forbidden in ("innerHTML", "insertAdjacentHTML", "document.write"):
                assert forbidden not in file.text


def test_a_file_that_a_browser_has_is_not_sent_again(url: str) -> None:
    path = f"{url}/static/vendor/highlightjs/highlight.min.js"
    tag = requests.get(path, timeout=PATIENCE).headers["etag"]
    again = requests.get(path, headers={"If-None-Match": tag}, timeout=PATIENCE)
    assert (again.status_code, again.content) == (304, b"")
    changed = requests.get(path, headers={"If-None-Match": '"another"'}, timeout=PATIENCE)
    assert changed.status_code == 200 and changed.content


def test_every_library_names_its_package_and_licence() -> None:
    vendor = STATIC / "vendor"
    listed = re.findall(
        r"^\| `([^`]+)` \| `[^`]+` \| [\d.]+ \| `[^`]+` \| (\S+) \|", (vendor / "README.md").read_text(), re.M
    )
    assert {folder for folder, _ in listed} == {item.name for item in vendor.iterdir() if item.is_dir()}
    for folder, licence in listed:
        text = (vendor / folder / "LICENSE").read_text()
        assert {"MIT": "MIT License", "ISC": "ISC License", "BSD-3-Clause": "BSD 3-Clause"}[
            licence
        ].lower() in text.lower()
