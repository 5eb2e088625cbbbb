"""Drives Debian's Chromium over its debugging pipe, with nothing but the standard library.

The browser reads commands from file 3 and writes answers and events to file 4, JSON objects that end with a zero byte.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BINARIES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
# Puts the two files where the browser looks for them; whatever this process has there stays.
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
TIMEOUT_SECONDS = 90


def find_chromium() -> str | None:
    return next((found for name in BINARIES if (found := shutil.which(name))), None)


@dataclass
class Chromium:
    """One browser with one page."""

    commands: int
    answers: int
    session: str = ""
    number: int = 0
    unread: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self.commands, content) :]
        while True:
            found = self.read()
            if found.get("id") == self.number:
                assert "error" not in found, found
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def read(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            content = os.read(self.answers, 2**20) if ready else b""
            assert content, "Chromium has ended, or says nothing"
            self.unread += content
        message, _, self.unread = self.unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, page: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a file in a window of this size, and wait until it has loaded."""
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not self.heard("Page.loadEventFired"):
            self.events.append(self.read())

    def heard(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of the events of this kind since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def evaluate(self, expression: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def photograph(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def start_chromium(profile: Path) -> Iterator[Chromium]:
    """Start a browser whose profile is the empty folder `profile`; it ends with the block."""
    binary = find_chromium()
    assert binary is not None
    inward, outward = os.pipe(), os.pipe()
    # Above 3 and 4, so that neither is overwritten before it is copied.
    given = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (inward[0], outward[1])]
    launcher = [
        sys.executable,
        "-c",
        START,
        *map(str, given),
        binary,
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    with open(profile / "stderr", "wb") as errors:
        process = subprocess.Popen(launcher, pass_fds=given, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    for end in (inward[0], outward[1], *given):
        os.close(end)
    browser = Chromium(inward[1], outward[0])
    try:
        attach(browser)
        yield browser
    finally:
        # The browser and its processes leave once nobody is at the other end of the pipe.
        os.close(inward[1])
        os.close(outward[0])
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def attach(browser: Chromium) -> None:
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Network", "Log"):
        browser.ask(f"{domain}.enable")
