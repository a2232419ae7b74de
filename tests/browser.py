"""A real browser, driven over its own protocol (DevTools, by pipes), so that tests can wait for what happens."""

import base64
import json
import os
import select
import shutil
import subprocess
from itertools import count
from pathlib import Path

from waiting import DEADLINE_SECONDS

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Resolves once a function returns something that is true.
UNTIL = """const until = (happened, text = String(happened)) => new Promise((resolve, reject) => {
  const end = performance.now() + %d, ask = () => {
    const found = happened();
    if (found) resolve(found); else if (performance.now() > end) reject(text); else setTimeout(ask, 20);
  };
  ask();
});"""


def find_browser():
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One window of 1,200 by 2,400 pixels; ends with `close`."""

    def __init__(self, program, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        options += ["--window-size=1200,2400", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", program, *options],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._rest, self._ids = ours_in, ours_out, b"", count(1)
        self._session, self._events = None, []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")

    def open(self, page):
        """Opens an address, or a file."""
        address = page.as_uri() if isinstance(page, Path) else page
        self._events.clear()
        assert "errorText" not in (answer := self._call("Page.navigate", url=address)), answer
        # Not asked of the page itself: an answer of the one before, which goes away, never comes.
        while "Page.loadEventFired" not in self._events:
            self._events.append(self._read().get("method"))

    def run(self, statements):
        """Runs statements, which may await and use `until`, and returns what they return."""
        expression = f"(async () => {{ {UNTIL % (1000 * DEADLINE_SECONDS)} {statements} }})()"
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self._call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self._process.terminate()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _call(self, method, **parameters):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self._events.append(answer.get("method"))
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self):
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], DEADLINE_SECONDS)[0], f"no answer in {DEADLINE_SECONDS} s"
            part = os.read(self._in, 2**20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
