import errno
import multiprocessing
import os
import signal
import time

import pytest

from batchnorm.records import append_line, atomic_file, remove_unfinished, write_atomic


def test_an_exception_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def break_off():
        with atomic_file(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_writer_left_can_be_removed_and_nothing_else(tmp_path):
    path = tmp_path / "a[1].json"
    kept = [path, tmp_path / ".a[1].json.swp", tmp_path / ".a1.json.abcdefgh", tmp_path / ".a[1].json~"]
    left = tmp_path / ".a[1].json.abcdefgh"
    for each in (*kept, left):
        each.write_text("")
    now = left.stat().st_mtime
    remove_unfinished(tmp_path, {path.name}, before=now)
    assert left.exists()
    remove_unfinished(tmp_path, {path.name}, before=now + 1)
    assert set(tmp_path.iterdir()) == set(kept)
    left.write_text("")
    os.utime(left, (now + 1e6, now + 1e6))  # a clock that went back
    remove_unfinished(tmp_path, {path.name})
    assert set(tmp_path.iterdir()) == set(kept)


def _write_slowly(path):
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        time.sleep(60)


def test_a_killed_writer_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    process = multiprocessing.get_context("spawn").Process(target=_write_slowly, args=(path,))
    process.start()
    while len(os.listdir(tmp_path)) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert path.read_text() == "old"


def test_a_new_file_has_the_mode_of_an_ordinary_one(tmp_path):
    write_atomic(tmp_path / "a", "")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: .*/dev/full") as caught:
        append_line("/dev/full", "x")
    assert caught.value.errno == errno.ENOSPC


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "directory", tmp_path / "nowhere" / "a.json"):
        with pytest.raises(OSError, match=f": '{path}'$") as caught:
            write_atomic(path, "")
        assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["directory"]


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    def read_while_writing():
        with atomic_file(tmp_path / "a"):
            open(tmp_path / "b").close()

    with pytest.raises(FileNotFoundError, match=r"/b'$"):
        read_while_writing()
