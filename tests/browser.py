"""A real headless Chromium on a page of ours, for tests; its screenshots are kept in build/report."""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path

import pytest

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage")  # fmt: skip
KEPT = Path(__file__).parent.parent / "build" / "report"


class Browser:
    """Opens files, reports what the console said, takes pictures. Close it."""

    def __init__(self, profile: Path):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def open(self, page: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Loads a file at a window's size; narrow ones are phones."""
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                      mobile=width < 600)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._command("Emulation.setEmulatedMedia", features=features)
        self.driver.get(page.as_uri())

    def run(self, script: str):
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(script)

    def count(self, selector: str) -> int:
        return self.run(f"return document.querySelectorAll({selector!r}).length")

    def until(self, script: str, seconds: float = 20.0) -> None:
        """Waits until a piece of JavaScript returns something true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def said(self) -> list[str]:
        """The console's lines since the last call, errors of loading included."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def keep(self, name: str) -> Path:
        """A picture of the whole page, kept."""
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        KEPT.mkdir(parents=True, exist_ok=True)
        path = KEPT / f"{name}.png"
        path.write_bytes(base64.b64decode(self._command("Page.captureScreenshot", captureBeyondViewport=True,
                                                        clip=clip)["data"]))  # fmt: skip
        return path

    def printed(self) -> bytes:
        """The page as a PDF."""
        return base64.b64decode(self._command("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])

    def close(self) -> None:
        self.driver.quit()

    def _command(self, name: str, **arguments) -> dict:
        return self.driver.execute_cdp_cmd(name, arguments)


def start(profile: Path) -> Browser:
    """A browser, or a skip that says what is missing."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver here (apt-get install chromium chromium-driver; `make test` does)")
    pytest.importorskip("selenium", reason="selenium is not installed (pip install -e .[dev])")
    return Browser(profile)
