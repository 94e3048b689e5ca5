"""Headless Chromium, driven through its DevTools protocol over a pipe, with the network off."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
]


class Browser:
    """One tab. Use it in a `with` statement.

    Args:
        profile: a folder for Chromium's files.
        flags: more flags of Chromium.
    Raises:
        AssertionError: Chromium is not installed: `apt-get install -y chromium`.
    """

    def __init__(self, profile: Path, *flags: str):
        program = shutil.which("chromium") or shutil.which("google-chrome")
        assert program, "expected chromium: apt-get install -y chromium"
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        # Chromium reads commands from file descriptor 3 and answers on 4.
        redirected = f'exec "$@" 3<&{read} 4>&{write}'
        self.process = subprocess.Popen(
            ["bash", "-c", redirected, "-", program, *FLAGS, *flags, f"--user-data-dir={profile}"],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.session, self.count, self.received = None, 0, b""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.send("Page.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)

    def send(self, method: str, **params) -> dict:
        """Send a DevTools command and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self):
        while b"\0" not in self.received:
            content = os.read(self.read, 2**20)
            assert content, "Chromium has ended"
            self.received += content
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def run(self, script: str):
        """Return the value of a JavaScript expression, or of its promise."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 120) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"waited {seconds} s for {condition}"
            time.sleep(0.05)

    def open(self, path: Path, before: str = "") -> None:
        """Open a file; `before` is JavaScript that runs before its scripts."""
        if before:
            self.send("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def choose_files(self, selector: str, paths: list[Path]) -> None:
        """Choose files in a file input, as a user does."""
        found = self.send("Runtime.evaluate", expression=f"document.querySelector('{selector}')")
        files = [str(Path(path).resolve()) for path in paths]
        self.send("DOM.setFileInputFiles", files=files, objectId=found["result"]["objectId"])

    def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """Press and release a key; of the modifiers, 8 is Shift."""
        key = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **key)
        self.send("Input.dispatchKeyEvent", type="keyUp", **key)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window in px, and its colours."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        answer = self.send("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(answer["data"]))
