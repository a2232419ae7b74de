"""Shows a run or a sweep while it is going: ``python -m experiments.watch <directory> [follow=true] [port=8008]``.

Serves one page to this machine's browsers, at the address that it prints, until it is interrupted. The page draws the
curves of every arm, and how far its runs have come, from the files in the directory, and again when there is more in
them; nothing else is needed, no account and no network. Runs may come, end and go, or not be there yet. A line is the
interquartile mean over the seeds that have come so far, its band goes from the lowest to the highest.

``follow=true`` serves no page, and shows in the terminal one progress line for all runs below the directory, whichever
processes and machines train them: env steps, their rate, the time left, and how many runs have finished or failed. It
ends when all that a sweep has planned (``plan.json``) has, and else when it is interrupted.

| key | default | meaning |
|---|---|---|
| `follow` | `false` | `true`: one line in the terminal, and no page |
| `port` | 8008 | where the page is; 0 takes one that is free |
| `metric` | return, entropy, deviation | names of ``metrics.csv`` to begin with; unknown ones are left out |
| `x` | `env_steps` | or `gradient_steps`, or `wall_clock` |

Of another machine: ``ssh -L 8008:127.0.0.1:8008 <machine>``, then open the address here. Exit statuses: 0 all that was
planned has ended, 2 bad input (one line on stderr), 130 interrupted.
"""

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from experiments.comparing.following import BAND, Following
from experiments.comparing.page import html_page, plain_panels
from experiments.comparing.runs import X_AXES
from experiments.console.key_value import exit_with, parse
from experiments.console.messages import one_line
from experiments.console.progress import ProgressBar
from remac.validation import InvalidValueError, require_one_of

HOST = "127.0.0.1"
POLL_SECONDS, SHARE = 2.0, 0.1  # of the time, at most, that reading takes: runs need the processor
BODY = f"""<header><h1>Runs</h1></header>
<main><p class="state" id="state" role="status">reading</p>
<p><label>Metric <select id="metric"></select></label> <label>against <select id="x"></select></label></p>
<div id="panels"></div><p class="beside">{BAND}. Drag to enlarge, double-click to see all again.</p>
<div class="wide" tabindex="0" role="region" aria-label="Table: runs"><table>
<thead><tr>{"".join(f'<th scope="col">{name}</th>' for name in ("task", "arm", "finished", "others", "env steps", ""))}
</tr></thead><tbody id="rows"></tbody></table></div><ul id="notes"></ul></main>"""


def main(arguments: Sequence[str]) -> None:
    """Serves the page until it is interrupted."""
    paths, settings = parse(arguments, {"follow": "false", "port": "8008", "metric": "", "x": "env_steps"})
    if len(paths) > 1:
        raise InvalidValueError("directories", " ".join(paths), "must be one, the folder that holds them all")
    directory = Path(paths[0])
    if not directory.is_dir():
        raise InvalidValueError("directory", directory, "is no folder" if directory.exists() else "does not exist")
    require_one_of("x", settings["x"], X_AXES)
    require_one_of("follow", settings["follow"], ("false", "true"))
    if settings["follow"] == "true":
        follow(directory)
        return
    port = settings["port"]
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise InvalidValueError("port", port, "must be a whole number from 0 to 65535")
    with make_server(directory, int(port), settings["metric"], settings["x"]) as server:
        print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def follow(directory: Path) -> None:
    """Shows in the terminal how far the runs of a folder have come together, until all that was planned has ended."""
    following, bar, has_read = Following(directory), ProgressBar(0, name=directory.name, phase="reading"), False
    try:
        while True:
            begun = time.monotonic()
            following.read()
            now = following.progress()
            bar.set_total(now.total_env_steps)
            (bar.update if has_read else bar.skip_to)(now.env_steps)
            bar.phase(now.words)
            has_read |= not following.is_behind
            if now.has_ended:
                return
            if not following.is_behind:
                time.sleep(max(POLL_SECONDS, (time.monotonic() - begun) / SHARE))
    finally:
        bar.close()


def make_server(directory: Path, port: int, metric: str = "", x: str = "env_steps") -> ThreadingHTTPServer:
    """Makes the server of the page, which then listens.

    Args:
        directory: The folder to watch.
        port: 0 for any.
        metric: What the page shows at first, names with commas between; "" for what figures show.
        x: Against what.

    Raises:
        InvalidValueError: If the port cannot be had.
    """
    following, lock = Following(directory), threading.Lock()
    page = html_page(f"Runs in {directory}", BODY, ("uplot.js", "curves.js", "watch.js"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of another site whose name was made to lead here is not let in.
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in (HOST, "localhost"):
                self._answer(HTTPStatus.FORBIDDEN, "text/plain", "")
            elif urlsplit(self.path).path == "/":
                self._answer(HTTPStatus.OK, "text/html", page)
            elif urlsplit(self.path).path == "/data":
                asked = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
                try:
                    with lock:
                        content = _content(following, {"metric": metric, "x": x} | asked)
                except Exception as error:  # the page says so, and asks again
                    self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", one_line(error))
                else:
                    self._answer(HTTPStatus.OK, "application/json", json.dumps(content, separators=(",", ":")))
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "")

        def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
            content = text.encode(errors="backslashreplace")
            with contextlib.suppress(ConnectionError):  # the page was left
                self.send_response(status)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise InvalidValueError("port", port, f"cannot be had ({error.strerror}); must be another, or 0") from None
    server.daemon_threads = True
    return server


def _content(following: Following, asked: dict[str, str]) -> dict[str, Any]:
    """Reads on, and returns what the page shows, or its version alone where the page has that already."""
    following.read()
    state = {"version": str(following.version), "is_behind": following.is_behind}
    if asked.get("since") == state["version"]:
        return state
    x = asked["x"] if asked["x"] in X_AXES else "env_steps"
    shown, panels = following.panels(tuple(filter(None, asked["metric"].split(","))), x)
    return state | {
        "state": following.state(),
        "metrics": following.metrics,
        "shown": ",".join(shown),
        "axes": X_AXES,
        "x": x,
        "panels": plain_panels(panels),
        "rows": following.rows(),
        "notes": following.notes,
    }


if __name__ == "__main__":
    exit_with(main)
