import os
import shutil
import sys

import pytest

from batchnorm.ops import build
from batchnorm.ops.build import BuildError, Toolchain, find_toolchain

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def test_without_a_compiler_it_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match=r"a C\+\+20 compiler expected in CXX or on PATH, got none"):
        find_toolchain()


def test_without_torch_it_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(BuildError, match=r"headers of an installed torch >= 2\.10 expected, got none"):
        find_toolchain()


def test_a_platform_without_our_compiler_flags_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BuildError, match="platform expected linux or darwin, got win32"):
        find_toolchain()


@needs_compiler
def test_headers_are_found_beside_the_installed_torch():
    assert (find_toolchain().torch / "include/torch/csrc/stable/library.h").exists()


def test_a_failed_build_leaves_the_library_as_it_was(tmp_path, capfd):
    library = tmp_path / "_native.so"
    library.write_text("old")
    with pytest.raises(BuildError, match="exit code 0 expected of false"):
        build.build(library, Toolchain("false", tmp_path))
    assert library.read_text() == "old"
    assert os.listdir(tmp_path) == ["_native.so"]


def test_one_line_and_exit_code_1_where_it_cannot_be_built(monkeypatch, capsys):
    def fails():
        raise BuildError("build: no luck")

    monkeypatch.setattr(build, "find_toolchain", fails)
    assert build.main(["--force"]) == 1
    assert capsys.readouterr().err == "build: no luck\n"


def test_a_library_newer_than_its_sources_is_kept(monkeypatch, tmp_path):
    library = tmp_path / "_native.so"
    library.write_text("new")
    monkeypatch.setattr(build, "LIBRARY", library)
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("compiled again"))
    assert build.main([]) == 0
    os.utime(library, (0, 0))
    assert not build._up_to_date(library)
