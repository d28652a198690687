"""A real Chromium, driven over the Chrome DevTools Protocol.

Small on purpose: open a page, wait until an expression is true, evaluate, click, drag, type, look. It waits for
states of the page, never for time. The browser gets a profile of its own in a directory that goes with it, and is
ended by its process id.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_START_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 60.0
_BUTTON_BITS = {"left": 1, "right": 2, "middle": 4}


class BrowserError(AssertionError):
    """The browser did not do what was asked; the message holds what the page said meanwhile."""


class Browser:
    """One browser with one page.

    Parameters
    ----------
    width, height
        Size of the page in CSS pixels.
    flags
        Further command-line flags of Chromium.
    """

    def __init__(self, *, width: int = 1280, height: int = 720, flags: Iterable[str] = ()) -> None:
        program = next((found for name in _CHROMIUM_NAMES if (found := shutil.which(name))), None)
        if program is None:
            raise BrowserError(f"no browser found; looked for {', '.join(_CHROMIUM_NAMES)}")
        self._profile = Path(tempfile.mkdtemp(prefix="browser-"))
        self._process = subprocess.Popen(
            [program, *_FLAGS, *flags, f"--user-data-dir={self._profile}", f"--window-size={width},{height}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._connection: ClientConnection | None = None
        self._next_id = 0
        self._authenticator = ""
        #: What this page printed to its console since it was opened, newest last: shown when something fails.
        self.console: list[str] = []
        try:
            self._attach(width, height)
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
        """Go to an address and return once its document is there."""
        answer = self._call("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(f"{url} could not be opened: {answer['errorText']}")
        self.console.clear()  # what comes before the answer was said by the page that is left
        self.wait_for("document.readyState === 'complete'", timeout_s=60)

    def eval(self, expression: str) -> Any:
        """Evaluate JavaScript in the page (a promise is awaited) and return its value."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 60.0) -> None:
        """Return as soon as the expression is truthy; the page itself looks every 20 ms."""
        deadline = time.monotonic() + timeout_s
        check = (
            "new Promise((resolve) => { const end = performance.now() + 500; const look = () => {"
            f"const value = (() => {{ try {{ return ({expression}); }} catch {{ return undefined; }} }})();"
            "if (value || performance.now() > end) resolve(Boolean(value)); else setTimeout(look, 20); }; look(); })"
        )
        while time.monotonic() < deadline:
            try:
                if self.eval(check):
                    return
            except BrowserError as error:
                # A navigation under way takes the page's context, and our promise with it, away.
                if not any(word in str(error) for word in ("context", "navigated", "Promise was collected")):
                    raise
        tail = "\n".join(self.console[-20:])
        raise BrowserError(f"not true after {timeout_s} s: {expression}\nconsole:\n{tail}")

    def screenshot(self, path: Path) -> None:
        """Write what is seen now as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def thin_line(self, bytes_a_second: float = -1, latency_ms: float = 0) -> None:
        """Whatever is fetched from now on comes no faster than this; without a number, as fast as it can."""
        self._call(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=latency_ms,
            downloadThroughput=bytes_a_second,
            uploadThroughput=bytes_a_second,
        )

    def run_first(self, script: str) -> None:
        """Run a script in every document that is opened from now on, before its own."""
        self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def set_cookie(self, url: str, name: str, value: str) -> None:
        """Give the browser a session cookie for an address, as a sign-in would."""
        self._call(
            "Network.setCookie", url=url, name=name, value=value, httpOnly=True, sameSite="Strict", path="/"
        )

    def plug_in_authenticator(self) -> None:
        """Give the browser an authenticator of its own, which has verified its user and says yes to everything."""
        self._call("WebAuthn.enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        self._authenticator = self._call("WebAuthn.addVirtualAuthenticator", options=options)[
            "authenticatorId"
        ]

    def verify_user(self, verified: bool) -> None:
        """Whether the authenticator knows its user's finger from now on."""
        name = self._authenticator
        self._call("WebAuthn.setUserVerified", authenticatorId=name, isUserVerified=verified)

    def credentials(self) -> list[dict[str, Any]]:
        """What the authenticator holds, private keys and counters too."""
        found = self._call("WebAuthn.getCredentials", authenticatorId=self._authenticator)["credentials"]
        assert isinstance(found, list)
        return found

    def put_credential(self, credential: dict[str, Any]) -> None:
        """Put `credential` in the place of the one with its id, as a copy of an authenticator would hold it."""
        name = self._authenticator
        held = {"authenticatorId": name, "credentialId": credential["credentialId"]}
        self._call("WebAuthn.removeCredential", **held)
        self._call("WebAuthn.addCredential", authenticatorId=name, credential=credential)

    def activate(self, selector: str) -> None:
        """Activate an element as a screen reader does, wherever it stands, once it is there."""
        self._wait_until_there(selector)
        self.eval(f"document.querySelector({json.dumps(selector)}).click()")

    def click(self, selector: str) -> None:
        """Click in the middle of an element with the left button, once it is there."""
        x, y = self._middle_of(selector)
        self.drag((x, y), (x, y), steps=0)

    def type_into(self, selector: str, text: str) -> None:
        """Focus an element and type text, as a keyboard would."""
        self._wait_until_there(selector)
        self.eval(f"document.querySelector({json.dumps(selector)}).focus()")
        self._call("Input.insertText", text=text)

    def press(self, key: str, *, ctrl: bool = False) -> None:
        """Press and release one key, named as `KeyboardEvent.key` names it."""
        text = {"text": key} if len(key) == 1 and not ctrl else {}
        code = {"Enter": 13, "Delete": 46, "Tab": 9, "Escape": 27}.get(key, 0)
        event = {"key": key, "modifiers": 2 if ctrl else 0, "windowsVirtualKeyCode": code}
        if key == "Enter":
            text = {"text": "\r"}
        self._call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    def drag(
        self, start: tuple[float, float], end: tuple[float, float], *, button: str = "left", steps: int = 8
    ) -> None:
        """Press a mouse button at one place of the page, move, release at another; CSS pixels."""
        (x0, y0), (x1, y1) = start, end
        self._mouse("mouseMoved", x0, y0)
        self._mouse("mousePressed", x0, y0, button=button, clickCount=1)
        for step in range(1, steps + 1):
            share = step / steps
            self._mouse(
                "mouseMoved",
                x0 + share * (x1 - x0),
                y0 + share * (y1 - y0),
                button=button,
                buttons=_BUTTON_BITS[button],
            )
        self._mouse("mouseReleased", x1, y1, button=button, clickCount=1)

    def wheel(self, x: float, y: float, delta_y: float) -> None:
        """Turn the wheel over a place of the page; positive is towards the person."""
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=delta_y)

    def close(self) -> None:
        """End this browser and nothing else, and remove its profile."""
        if self._connection is not None:
            # Whatever it answers, it is ended by its process id below.
            with contextlib.suppress(BrowserError, OSError, TimeoutError, ConnectionClosed):
                self._call("Browser.close")
            self._connection.close()
            self._connection = None
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: it and its helpers, nobody else
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _attach(self, width: int, height: int) -> None:
        address = self._browser_address()
        self._connection = connect(address, max_size=None, open_timeout=_START_TIMEOUT_S, compression=None)
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def _browser_address(self) -> str:
        """Wait until Chromium has written the port it chose."""
        announced = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BrowserError(f"the browser ended at once with code {self._process.returncode}")
            lines = announced.read_text().split() if announced.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.05)  # a file that appears: there is no event to wait for
        raise BrowserError("the browser did not open its debugging port")

    def _wait_until_there(self, selector: str) -> None:
        self.wait_for(f"document.querySelector({json.dumps(selector)})")

    def _middle_of(self, selector: str) -> tuple[float, float]:
        self._wait_until_there(selector)
        box = self.eval(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return box[0], box[1]

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        if self._connection is None:
            raise BrowserError("the browser is closed")
        self._next_id += 1
        message: dict[str, Any] = {"id": self._next_id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=_CALL_TIMEOUT_S))
            if answer.get("id") == self._next_id:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what the page complains about: exceptions, console lines, refused loads."""
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Runtime.consoleAPICalled":
            words = [str(arg.get("value", arg.get("description", ""))) for arg in params["args"]]
            self.console.append(f"{params['type']}: {' '.join(words)}")
        elif event.get("method") == "Log.entryAdded":
            entry = params["entry"]
            self.console.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")
