import pytest
import torch

from batchnorm.ops import backend, has_native, resolve_backend

CONTIGUOUS = torch.zeros(2, 3, 4, 4)
CHANNELS_LAST = CONTIGUOUS.to(memory_format=torch.channels_last)


def test_auto_prefers_the_native_kernel_and_never_an_inaccurate_one(monkeypatch):
    monkeypatch.setattr(backend, "WISH", "auto")
    if has_native("cpu"):
        assert resolve_backend("auto", CONTIGUOUS) == resolve_backend("auto", CHANNELS_LAST) == "native"
    else:
        assert resolve_backend("auto", CONTIGUOUS) == "torch"
        assert resolve_backend("auto", CHANNELS_LAST) == "eager"


def test_the_environment_decides_for_auto_only(monkeypatch):
    monkeypatch.setattr(backend, "WISH", "eager")
    assert resolve_backend("auto", CONTIGUOUS) == "eager"
    assert resolve_backend("torch", CONTIGUOUS) == "torch"


def test_a_wrong_environment_is_named(monkeypatch):
    monkeypatch.setattr(backend, "WISH", "fast")
    with pytest.raises(ValueError, match=r"BATCHNORM_BACKEND expected one of .*, got 'fast'"):
        resolve_backend("auto", CONTIGUOUS)


def test_native_is_refused_where_there_is_none():
    with pytest.raises(RuntimeError, match="expected a compiled kernel for device 'meta', got none"):
        resolve_backend("native", CONTIGUOUS.to("meta"))
