import gzip
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from batchnorm.data import DataWarning, SampleWarning, download, load_fashion_mnist
from batchnorm.data.files import SAMPLE

IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"

Handler = BaseHTTPRequestHandler
Files = dict[str, bytes]


def contents(directory: Path) -> Files:
    return {path.name: path.read_bytes() for path in directory.glob("*")}


def start_sending(handler: Handler, content: bytes, part: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(part)
    handler.wfile.flush()


def test_files_are_fetched_once_and_kept(
    official: Files, mirror: Callable, cache: Path, notices: list
) -> None:
    server = mirror(official)
    data = load_fashion_mnist(mirrors=[server.address.rstrip("/")], notify=notices.append)
    assert data.source == "fashion-mnist"
    assert sorted(server.asked) == sorted(official)
    assert contents(cache) == official
    assert load_fashion_mnist(mirrors=[server.address]).origin == str(cache)
    assert len(server.asked) == 4
    assert notices == []


def test_a_server_that_unpacks_on_the_way_will_do(
    official: Files, mirror: Callable, cache: Path, notices: list
) -> None:
    server = mirror({name: gzip.decompress(raw) for name, raw in official.items()})
    assert load_fashion_mnist(mirrors=[server.address], notify=notices.append).origin == server.address
    assert load_fashion_mnist(notify=notices.append).origin == str(cache)
    assert notices == []


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def redirect_to_itself(handler: Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


def redirect_nowhere(handler: Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://a..b/")
    handler.end_headers()


def say_no_length(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "unknown")
    handler.end_headers()


def cut_short(handler: Handler) -> None:
    start_sending(handler, b"x" * 1000, b"x" * 500)


def hang(handler: Handler) -> None:
    time.sleep(5)


FAULTS: dict[str, tuple[bytes | Callable[[Handler], None] | None, str]] = {
    "absent": (None, "expected a file, got status 404"),
    "html": (b"<html>Sign in to the network</html>", "expected SHA-256 {expected} once unpacked, got "),
    "another": (gzip.compress(b"another"), "expected SHA-256 {expected} once unpacked, got "),
    "redirect": (redirect_to_itself, "expected a file, got status 302"),
    "nowhere": (redirect_nowhere, "expected a file, got LocationParseError"),
    "no length": (say_no_length, "expected a file, got ValueError"),
    "cut": (cut_short, "expected a file, got ChunkedEncodingError"),
    "hangs": (hang, "expected a file, got ReadTimeout"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mirror_that_fails_is_told_and_the_next_one_asked(
    official: Files,
    mirror: Callable,
    cache: Path,
    notices: list,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    if fault == "hangs":
        monkeypatch.setattr(download, "TIMEOUTS_SECONDS", (10.0, 2.0))
    answer, words = FAULTS[fault]
    bad, good = mirror({**official, LABELS: answer} if answer else {}), mirror(official)
    data = load_fashion_mnist(mirrors=[bad.address, good.address], notify=notices.append)
    assert (data.source, data.origin) == ("fashion-mnist", good.address)
    assert contents(cache) == official
    (notice,) = notices
    spoilt = LABELS if answer else IMAGES
    expected = words.format(expected=SAMPLE["train_labels"].sha256)
    assert str(notice).startswith(f"load_fashion_mnist: {bad.address}{spoilt} {expected}")
    assert "\n" not in str(notice)
    if answer:  # what the first mirror gave is not fetched again
        assert IMAGES not in good.asked


@pytest.mark.parametrize(
    ("address", "reason"), [(None, "ConnectionError"), ("ftp://127.0.0.1/", "InvalidSchema")]
)
def test_a_mirror_out_of_reach_is_told_and_the_next_one_asked(
    official: Files, mirror: Callable, notices: list, address: str | None, reason: str
) -> None:
    bad = address or closed_port()
    good = mirror(official)
    assert load_fashion_mnist(mirrors=[bad, good.address], notify=notices.append).origin == good.address
    (notice,) = notices
    assert str(notice) == f"load_fashion_mnist: {bad}{IMAGES} expected a file, got {reason}"


def test_without_any_mirror_the_sample_stands_in(
    official: Files, mirror: Callable, cache: Path, notices: list
) -> None:
    spoilt = mirror(dict.fromkeys(official, b"no such data"))
    data = load_fashion_mnist(mirrors=[closed_port(), spoilt.address], notify=notices.append)
    assert data.source == "embedded-sample"
    assert [type(notice) for notice in notices] == [DataWarning, DataWarning, SampleWarning]
    assert str(notices[-1]).endswith("and no mirror gave them.")
    assert contents(cache) == {}


def test_a_cache_that_cannot_be_made_costs_one_notice_and_not_the_data(
    official: Files, mirror: Callable, notices: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("BATCHNORM_CACHE", str(tmp_path / "file"))
    data = load_fashion_mnist(mirrors=[mirror(official).address], notify=notices.append)
    assert data.source == "fashion-mnist"
    (notice,) = notices
    assert str(notice).startswith(
        f"load_fashion_mnist: {tmp_path}/file/fashion-mnist expected room for {IMAGES}"
    )
    assert "Not a directory" in str(notice)


@contextmanager
def no_file_longer_than(count: int) -> Iterator[None]:
    """The file system refuses to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_one_notice_and_leaves_no_half_file(
    official: Files, mirror: Callable, cache: Path, notices: list
) -> None:
    server = mirror(official)
    with no_file_longer_than(100_000):
        data = load_fashion_mnist(mirrors=[server.address], notify=notices.append)
    assert data.source == "fashion-mnist"
    (notice,) = notices
    assert "File too large" in str(notice)
    assert contents(cache) == {}


# A process killed on the way

LOAD = """
import pathlib, sys
from batchnorm.data import fashion_mnist
from batchnorm.data.files import SAMPLE
fashion_mnist.OFFICIAL = SAMPLE
fashion_mnist.SYSTEM_DIRECTORY = pathlib.Path("absent")
fashion_mnist.load_fashion_mnist(mirrors=[sys.argv[1]])
"""

DIE_WHILE_WRITING = """
import os, signal
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
"""


def start_loading(address: str, before: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", before + LOAD, address])


def test_a_process_killed_in_mid_download_leaves_whole_files_only(
    official: Files, mirror: Callable, cache: Path, notices: list
) -> None:
    half_sent, killed = threading.Event(), threading.Event()

    def stall(handler: Handler) -> None:
        content = official["t10k-images-idx3-ubyte.gz"]
        start_sending(handler, content, content[: len(content) // 2])
        half_sent.set()
        killed.wait(60)

    process = start_loading(mirror({**official, "t10k-images-idx3-ubyte.gz": stall}).address)
    try:
        assert half_sent.wait(120)
    finally:
        process.kill()
        process.wait()
        killed.set()
    assert process.returncode == -signal.SIGKILL
    assert contents(cache) == {name: official[name] for name in (IMAGES, LABELS)}

    server = mirror(official)
    assert load_fashion_mnist(mirrors=[server.address], notify=notices.append).source == "fashion-mnist"
    assert sorted(server.asked) == sorted(official.keys() - {IMAGES, LABELS})
    assert contents(cache) == official
    assert notices == []


def test_a_process_killed_while_writing_leaves_nothing_that_is_taken_for_data(
    official: Files, mirror: Callable, cache: Path, notices: list
) -> None:
    server = mirror(official)
    assert start_loading(server.address, DIE_WHILE_WRITING).wait(120) == -signal.SIGKILL
    (unfinished,) = os.listdir(cache)
    assert unfinished.startswith(f".{IMAGES}.")
    os.utime(cache / unfinished, (0, 0))

    assert load_fashion_mnist(mirrors=[server.address], notify=notices.append).origin == server.address
    assert set(os.listdir(cache)) == set(official)
    assert notices == []


def test_what_another_process_is_writing_is_left_alone(
    official: Files, mirror: Callable, cache: Path, notices: list
) -> None:
    theirs = cache / f".{IMAGES}.abcdefgh"
    cache.mkdir(parents=True)
    theirs.write_bytes(b"half")
    load_fashion_mnist(mirrors=[mirror(official).address], notify=notices.append)
    assert theirs.read_bytes() == b"half"
    assert set(os.listdir(cache)) == {*official, theirs.name}


# The bar


@pytest.mark.parametrize("progress", [True, False, None])
def test_a_bar_is_drawn_on_the_error_stream_when_asked_for(
    official: Files, mirror: Callable, capsys: pytest.CaptureFixture[str], progress: bool | None
) -> None:
    load_fashion_mnist(mirrors=[mirror(official).address], progress=progress)
    output = capsys.readouterr()
    assert output.out == ""
    if progress:
        assert [line.split()[0] for line in output.err.splitlines() if line] == list(official)
        assert "2.6/2.6 MB" in output.err
    else:  # None: no terminal here
        assert output.err == ""


def test_a_bar_ends_when_its_download_breaks_off(official: Files, mirror: Callable, notices: list) -> None:
    server = mirror({**official, LABELS: cut_short})
    running = threading.active_count()
    load_fashion_mnist(mirrors=[server.address], progress=True, notify=notices.append)
    assert len(notices) == 2
    assert threading.active_count() <= running  # rich draws from a thread of its own
