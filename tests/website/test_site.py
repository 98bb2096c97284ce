"""The site is built strictly and from this machine alone, and looks as it should in a browser, wide and narrow."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import COMMANDS
from tasks.config.schema import Settings
from tests.browser import Browser
from tests.project import ROOT

LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=\"(?:https?:)?//[^\"]*\""
                    r"|url\(\s*['\"]?(?:https?:)?//")
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
SEEN = ("index", "quick-start", "tutorials/two-hosts", "how-to/trouble", "concepts/gate", "recipes",
        "reference/commands", "reference/settings", "reference/objectives")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def build(folder: Path, config: Path | None = None) -> subprocess.CompletedProcess:
    more = [] if config is None else ["--config-file", str(config)]
    return subprocess.run([*BUILD, str(folder), *more], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)})


def text(site: Path, page: str) -> str:
    return (site / f"{page}.html").read_text(encoding="utf-8")


def test_every_document_is_a_page_and_nothing_comes_from_another_host(site):
    for path in (ROOT / "docs").rglob("*.md"):
        assert (site / path.relative_to(ROOT / "docs")).with_suffix(".html").is_file(), path
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not LOADED.search(path.read_text(encoding="utf-8")), path


def test_diagrams_are_pictures(site):
    drawn = {path: len(re.findall("^```mermaid", path.read_text(), re.MULTILINE))
             for path in (ROOT / "docs").rglob("*.md")}
    assert sum(drawn.values()) >= 7
    for path, count in drawn.items():
        page = text(site, path.relative_to(ROOT / "docs").with_suffix("").as_posix())
        assert page.count('<div class="picture"><svg') == count and 'class="mermaid"' not in page


def test_the_reference_has_every_command_and_setting(site):
    page = text(site, "reference/commands")
    assert all(f"<code>fewstep {name}</code>" in page for name in COMMANDS)
    assert "--isolated" in page and "schedule list" in page
    page = text(site, "reference/settings")
    assert all(f"<code>{name}</code>" in page for name in Settings.model_fields)
    assert "register.gate.margins" in page and "half-life of the average" in page and "≥ 16" in page
    page = text(site, "reference/recipe-settings")
    assert "<code>distribution_matching</code>" in page and "divergence" in page
    assert "GaussianMixture" in text(site, "reference/fewstep")


def test_a_link_that_leads_nowhere_fails(tmp_path):
    (tmp_path / "docs").mkdir()
    page, config = tmp_path / "docs" / "index.md", tmp_path / "mkdocs.yml"
    rules = re.search(r"^validation:\n(?: .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[0]
    config.write_text(f"site_name: two links\nplugins: []\n{rules}")
    page.write_text("# Here\n\n[there](#here)\n")
    assert build(tmp_path / "site", config).returncode == 0
    page.write_text("# Here\n\n[gone](nowhere.md), [moved](index.md#not-there)\n")
    done = build(tmp_path / "site", config)
    assert done.returncode != 0 and "nowhere.md" in done.stderr and "not-there" in done.stderr, done.stderr


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here")
def test_pages_in_a_browser(site, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        for width in (1300, 390):
            for name in SEEN:
                browser.open(site / f"{name}.html", width=width, dark=name == "concepts/gate")
                wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, f"{name} is {wide} px too wide at {width}"
                asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
                assert all(address.startswith(("file:", "data:", "blob:")) for address in asked), asked
                assert browser.count(".md-content h1") == 1
            browser.keep(f"site-{width}")
        assert [line for line in browser.said() if "file:" not in line and "CORS" not in line] == []
    finally:
        browser.close()
