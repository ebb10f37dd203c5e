"""The kernels of every instruction set this machine has, not only of the best one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm.ops import has_native
from batchnorm.ops.native import instruction_set

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not has_native("cpu"), reason="the native CPU kernels are not built")


def in_process(isa, *command):
    """Run Python where ``BATCHNORM_CPU_ISA`` is set: the choice is made once a process."""
    environment = {**os.environ, "BATCHNORM_CPU_ISA": isa}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


def chosen(isa):
    return in_process(isa, "-c", "from batchnorm.ops import native; print(native.instruction_set())")


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_conformance_on_each_instruction_set(isa):
    if isa == instruction_set():
        pytest.skip("the other tests use this one")
    if chosen(isa).returncode:
        pytest.skip(f"this CPU has no {isa}")
    tests = [
        str(HERE / f"test_{name}.py") for name in ("oracle", "parts", "pooling", "properties", "rounding")
    ]
    result = in_process(isa, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "native", *tests)
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout


def test_the_one_asked_for_is_the_one_in_use():
    assert chosen("baseline").stdout.strip() == "baseline"


def test_an_unknown_one_is_refused_by_name():
    result = chosen("sse9")
    assert result.returncode
    assert "BATCHNORM_CPU_ISA expected one that this CPU has, baseline" in result.stderr
    assert "got sse9" in result.stderr
