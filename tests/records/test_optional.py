import sys

import pytest

from batchnorm.records import NotInstalledError, import_optional


def test_what_is_missing_is_named_with_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "absent", None)
    with pytest.raises(
        NotInstalledError, match=r"^op: x expected absent to be installed, got none; pip install 'a\[b\]'$"
    ):
        import_optional("absent", "op: x", "a[b]")
    with pytest.raises(NotInstalledError, match=r"; pip install ray$"):
        import_optional("absent", "op: x", "ray")


def test_what_is_there_but_broken_says_so_itself(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("raise ImportError('libfaulty.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"^libfaulty.so: cannot open$") as caught:
        import_optional("broken_package", "op: x", "a[b]")
    assert not isinstance(caught.value, NotInstalledError)
