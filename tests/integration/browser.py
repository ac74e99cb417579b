"""A real headless Chromium, driven over its DevTools protocol."""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}
CTRL = 2


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._next = 0
        self.complaints: list[str] = []
        """What the browser wrote on its console: refused resources, uncaught errors."""

    def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol."""
        self._next += 1
        self._connection.send(json.dumps({"id": self._next, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=30))
            if message.get("id") == self._next:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Log.entryAdded":
            self.complaints.append(message["params"]["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"])[:500])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, timeout_s: float = 30.0) -> None:
        """Until the expression is true."""
        deadline = time.monotonic() + timeout_s
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.run('document.body.innerText')}"
            time.sleep(0.05)

    def key(self, name: str, *, modifiers: int = 0) -> None:
        """Press and release a key."""
        code = KEYS.get(name, 0)
        text = {"text": "\r" if name == "Enter" else name} if name in ("Enter", " ") and not modifiers else {}
        common = {"key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def open_page(url: str, profile: Path) -> Iterator[Page]:
    """The page at `url` in a fresh browser; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--window-size=1300,900"]
    browser = subprocess.Popen([CHROMIUM, *flags, *options, "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        assert browser.stderr is not None
        port = next(m[1] for line in browser.stderr if (m := re.search(r"ws://127\.0\.0\.1:(\d+)/", line)))
        with connect(_tab(port), max_size=None) as connection:
            page = Page(connection)
            for domain in ("Page", "Runtime", "Log"):
                page.call(f"{domain}.enable")
            page.call("Page.navigate", url=url)
            page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
            yield page
    finally:
        browser.terminate()
        browser.wait(timeout=20)


def _tab(port: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = json.load(answer)
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
