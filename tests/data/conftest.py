"""A machine without Fashion-MNIST, and mirrors that run on it.

The embedded sample, renamed official, stands in for the whole set where the set's size is not the
subject: the sources and their faults are the same, and no test needs 30 MB or the network.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest

from batchnorm.data import fashion_mnist
from batchnorm.data.files import OFFICIAL, SAMPLE

DEBIAN = fashion_mnist.SYSTEM_DIRECTORY

Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's directory, absent as on a new machine; Debian's package is out of sight."""
    monkeypatch.setenv("BATCHNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fashion_mnist, "SYSTEM_DIRECTORY", tmp_path / "system")
    return tmp_path / "cache" / "fashion-mnist"


@pytest.fixture
def debian() -> Path:
    """The whole set as Debian packs it."""
    if not all((DEBIAN / f"{file.name}.gz").is_file() for file in OFFICIAL.values()):
        pytest.skip(f"needs the whole of Fashion-MNIST in {DEBIAN}: apt install dataset-fashion-mnist")
    return DEBIAN


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The sample's gzipped files by name; the loader takes them for the official ones."""
    monkeypatch.setattr(fashion_mnist, "OFFICIAL", SAMPLE)
    directory = resources.files("batchnorm.data") / "sample"
    return {f"{file.name}.gz": (directory / f"{file.name}.gz").read_bytes() for file in SAMPLE.values()}


@pytest.fixture
def fill(official: dict[str, bytes]) -> Callable[..., Path]:
    """A function that writes the files into a directory; other contents by name, None leaves out."""

    def fill(directory: Path, changed: Mapping[str, bytes | None] | None = None) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in {**official, **(changed or {})}.items():
            if content is not None:
                (directory / name).write_bytes(content)
        return directory

    return fill


class Mirror(ThreadingHTTPServer):
    """Serves bytes by file name, or lets a function answer; remembers what it was asked for."""

    daemon_threads = True

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        mirror = self
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                mirror.asked.append(name)
                answer = answers.get(name)
                if answer is None:
                    self.send_error(404)
                elif callable(answer):
                    answer(self)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/data/"

    def handle_error(self, *arguments: object) -> None:
        """A client that was killed is no fault of the mirror."""


@pytest.fixture
def mirror() -> Iterator[Callable[[Mapping[str, Answer]], Mirror]]:
    """A function that starts a mirror."""
    running: list[tuple[Mirror, threading.Thread]] = []

    def start(answers: Mapping[str, Answer]) -> Mirror:
        server = Mirror(answers)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def notices() -> list[Warning]:
    """Pass ``notices.append`` as ``notify``."""
    return []
