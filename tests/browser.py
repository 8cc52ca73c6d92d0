"""A real browser for tests: headless Chromium, driven over chromedriver's HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ARGUMENTS = [
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


class Browser:
    """Chromium with one window; a context manager.

    Args:
        width_px: Width of the page.
        height_px: Height of the page.
        phone: Whether to behave as a phone: touch, a high pixel density, its own viewport.
        dark: Whether the user likes dark pages.
    """

    def __init__(self, *, width_px: int = 1280, height_px: int = 800, phone: bool = False, dark: bool = False) -> None:
        self._folder = tempfile.mkdtemp(prefix="browser-")
        port = _free_port()
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        arguments = [*ARGUMENTS, f"--user-data-dir={self._folder}"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        if phone:
            arguments.append("--force-device-scale-factor=2")
        options = {"binary": shutil.which("chromium"), "args": arguments}
        try:
            _until(self._answers, 20.0)
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
            self._base += f"/session/{made['sessionId']}"
            metrics = {"width": width_px, "height": height_px, "deviceScaleFactor": 1 + phone, "mobile": phone}
            self.cdp("Emulation.setDeviceMetricsOverride", **metrics)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a function body of JavaScript returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def text(self, selector: str, number: int = 0) -> str:
        """The text of an element as it is set, visible or not."""
        return str(self.run(f"return document.querySelectorAll({json.dumps(selector)})[{number}].textContent"))

    def until(self, script: str, *, timeout_s: float = 30.0) -> Any:
        """What a function body of JavaScript returns, as soon as it is true."""
        return _until(lambda: self.run(script), timeout_s, script)

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Keep what is seen; ``whole``: of the whole page."""
        data = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        if "/session/" in self._base:
            with contextlib.suppress(OSError):
                self._call("DELETE", "", None)
        self._driver.terminate()
        self._driver.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return bool(self._call("GET", "/status", None)["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:2000]) from error


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _until(ask: Callable[[], Any], timeout_s: float, what: str = "") -> Any:
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = ask()
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what or ask}")
        time.sleep(0.05)
