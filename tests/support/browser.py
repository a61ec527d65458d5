"""A real browser for tests: Chromium, without a window, driven by WebDriver.

    with Browser.start(directory) as browser:
        browser.open("http://127.0.0.1:8080/")
        browser.press("Tab")
        assert browser.run("return document.title") == "…"

Source: https://www.w3.org/TR/webdriver2/
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

_ANSWER_S: Final = 600
_STARTING_S: Final = 300
_WAIT_S: Final = 300
_TIMEOUTS: Final = {"script": 300_000, "pageLoad": 300_000}
"""In milliseconds: a busy machine is no failure."""
_OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--window-size=1280,900",
)
_KEYS: Final = {"Tab": "\ue004", "Enter": "\ue007", "Shift": "\ue008", "Space": " ", "Right": "\ue014"}


class BrowserError(AssertionError):
    """The browser says that a command failed."""


class Browser:
    """One browser window."""

    def __init__(self, driver: subprocess.Popen[str], port: int, session: str) -> None:
        self._driver = driver
        self._port = port
        self._session = session

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start a browser; a machine without one skips the test.

        Args:
            directory: An empty one for its profile.
        """
        chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or chromedriver is None:
            pytest.skip("chromium or chromedriver is missing: Debian has both as packages")
        driver = subprocess.Popen(
            [chromedriver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            port = _read_port(driver)
            options = {"binary": chromium, "args": [*_OPTIONS, f"--user-data-dir={directory}"]}
            always = {"browserName": "chrome", "goog:chromeOptions": options, "timeouts": _TIMEOUTS}
            wanted = {"alwaysMatch": always}
            made = _ask(port, "POST", "/session", {"capabilities": wanted})
        except BaseException:
            _end(driver)
            raise
        return cls(driver, port, made["sessionId"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._ask("DELETE", "", None)
        finally:
            _end(self._driver)

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self._ask("POST", "/url", {"url": address})

    @property
    def address(self) -> str:
        """Where it is."""
        return str(self._ask("GET", "/url", None))

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function's body in the page, and return what it returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_until_called(self, script: str, *arguments: object) -> Any:
        """Run a function's body in the page until it calls its last argument."""
        return self._ask("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Press keys one after the other; "Shift+Tab" two at a time."""
        for key in keys:
            parts = [_KEYS.get(part, part) for part in key.split("+")]
            actions = [{"type": "keyDown", "value": part} for part in parts]
            actions += [{"type": "keyUp", "value": part} for part in reversed(parts)]
            self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def write(self, text: str) -> None:
        """Type a text."""
        self.press(*text)

    def wait_for(self, condition: str, *arguments: object) -> Any:
        """Wait until an expression in the page is true; return its value.

        Raises:
            AssertionError: It stays false; the text shows the page.
        """
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            if value := self.run(f"return {condition}", *arguments):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never: {condition}\n{self.run('return document.body.innerText')[:3000]}")

    def add_script(self, script: str) -> None:
        """Run a script in every page from now on, before the page's own; its policy does not forbid that."""
        self._command("Page.addScriptToEvaluateOnNewDocument", {"source": script})

    def emulate(self, scheme: str) -> None:
        """Have pages drawn for a reader who prefers "light" or "dark", and that nothing moves."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self._command("Emulation.setEmulatedMedia", {"features": features})

    def narrow(self, width: int | None) -> None:
        """Show pages as a screen of this width in CSS pixels does; None: as wide as the window again."""
        if width is None:
            self._command("Emulation.clearDeviceMetricsOverride", {})
        else:
            screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
            self._command("Emulation.setDeviceMetricsOverride", screen)

    def resize(self, width: int, height: int) -> None:
        """Make the window another size."""
        self._ask("POST", "/window/rect", {"width": width, "height": height})

    def take_picture(self, path: Path) -> None:
        """Write what is in the window as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot", None)))

    def _command(self, name: str, parameters: object) -> Any:
        """Give a command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _ask(self, method: str, path: str, body: object) -> Any:
        return _ask(self._port, method, f"/session/{self._session}{path}", body)


def _end(driver: subprocess.Popen[str]) -> None:
    driver.terminate()
    driver.wait(_STARTING_S)
    assert driver.stdout is not None
    driver.stdout.close()


def _read_port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if match := re.search(r"started successfully on port (\d+)", line):
            return int(match[1])
    raise AssertionError("chromedriver does not start")


def _ask(port: int, method: str, path: str, body: object) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        value = json.loads(connection.getresponse().read())["value"]
    finally:
        connection.close()
    if isinstance(value, dict) and "error" in value:
        raise BrowserError(f"{method} {path}: {value['error']}: {value.get('message', '')[:1000]}")
    return value
