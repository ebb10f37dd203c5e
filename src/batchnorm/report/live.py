"""A run's page while it trains: served to this machine alone, and told of every epoch."""

import json
import queue
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from batchnorm.records import error_line, read_faults, read_run
from batchnorm.report.page import render_page
from batchnorm.report.parts import part
from batchnorm.report.vega import browser_bundle

__all__ = ["LiveView"]

HOST = "127.0.0.1"
PATIENCE_S = 15  # a line at least so often, so that a page that has gone is noticed

# whoever follows the address at once is there before the first record is
NOT_YET = """<!doctype html><html lang="en"><meta name="color-scheme" content="light dark"><title>Soon</title>
<main><h1>The run has not begun yet.</h1><p>This page goes on by itself, with JavaScript.</p></main>
<script>
  const wait = async () => ((await fetch(location)).ok ? location.reload() : setTimeout(wait, 1000));
  setTimeout(wait, 1000);
</script></html>
"""


class LiveView:
    """Serves one run's page on a free port of 127.0.0.1 until it is left.

    The address holds a secret; who does not know it, or comes from another page, gets nothing. The page
    learns of progress by server-sent events, and fetches itself anew after each epoch.

    Args:
        directory: Of the run; its records are read at each visit.

    Raises:
        NotInstalledError: If the ``train`` extra is not installed.
        OSError: If there is no port.

    References:
        "Server-sent events" of the HTML Living Standard, WHATWG.
    """

    def __init__(self, directory: Path) -> None:
        browser_bundle()  # better now than at the first visit
        self.directory = directory
        self.token = secrets.token_urlsafe(16)
        self._listeners: set[queue.SimpleQueue[str | None]] = set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{self.authority}/{self.token}/"

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"{HOST}:{self._server.server_port}"

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Tell the pages that it is over, and stop."""
        self.tell("over", {})
        with self._lock:
            for listener in self._listeners:
                listener.put(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to every open page.

        Args:
            event: ``progress``, ``epoch`` or ``over``.
            data: JSON values.
        """
        message = f"event: {event}\ndata: {json.dumps(data)}\n\n"
        with self._lock:
            for listener in self._listeners:
                listener.put(message)

    def page(self) -> str:
        """The run's page as it stands, with the script that keeps it up to date."""
        html = render_page(read_run(self.directory), read_faults(self.directory))
        # the page may fetch nothing; this one may listen to its own server
        html = html.replace("default-src 'none';", "default-src 'none'; connect-src 'self';", 1)
        body, end, rest = html.rpartition("</body>")  # the last: the chart library has the word in a string
        return f"{body}<script>\n{part('page', 'live.js')}</script>\n{end}{rest}"

    def _listen(self) -> "queue.SimpleQueue[str | None]":
        listener: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with self._lock:
            self._listeners.add(listener)
        return listener

    def _forget(self, listener: "queue.SimpleQueue[str | None]") -> None:
        with self._lock:
            self._listeners.discard(listener)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        view = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name that BaseHTTPRequestHandler looks for
                try:
                    self._answer()
                except FileNotFoundError:
                    self._send(NOT_YET.encode(), "text/html; charset=utf-8", HTTPStatus.SERVICE_UNAVAILABLE)
                except ConnectionError:
                    pass  # the page was closed
                except (OSError, ValueError) as error:  # a record is damaged
                    self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=error_line(error))

            def _answer(self) -> None:
                if not self._may_see():
                    self.send_error(HTTPStatus.FORBIDDEN)
                elif self.path == f"/{view.token}/":
                    self._send(view.page().encode(), "text/html; charset=utf-8")
                elif self.path == f"/{view.token}/events":
                    self._stream()
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)

            def _may_see(self) -> bool:
                # a page elsewhere that has our address (by a name that leads to 127.0.0.1, say) is refused
                given = self.path.removeprefix("/").partition("/")[0]
                return (
                    secrets.compare_digest(given.encode(), view.token.encode())
                    and self.headers.get("Host") == view.authority
                    and self.headers.get("Origin") in (None, f"http://{view.authority}")
                    and self.headers.get("Sec-Fetch-Site") in (None, "none", "same-origin")
                )

            def _head(self, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                self.send_header("Referrer-Policy", "no-referrer")
                self.send_header("Cross-Origin-Resource-Policy", "same-origin")

            def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
                self._head(kind, status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self) -> None:
                self._head("text/event-stream")
                self.end_headers()
                listener = view._listen()
                try:
                    self._write(": here\n\n")
                    while (message := self._next(listener)) is not None:
                        self._write(message)
                finally:
                    view._forget(listener)

            def _next(self, listener: "queue.SimpleQueue[str | None]") -> str | None:
                try:
                    return listener.get(timeout=PATIENCE_S)
                except queue.Empty:
                    return ": still here\n\n"

            def _write(self, message: str) -> None:
                self.wfile.write(message.encode())
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: the terminal belongs to the training."""

        return Handler
