"""A part of this suite on the Triton kernels, in Triton's interpreter; `make triton` runs all of it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interpreter import INTERPRETED

HERE = Path(__file__).parent
TESTS = [HERE / name for name in ("test_oracle.py", "test_parts.py", "test_running_stats.py")]
QUICK = (
    "native and (training or prediction or one_part or skipped"
    " or (each_activation and float32) or (several_steps and bfloat16))"
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(INTERPRETED, reason="all of the suite is run so")
def test_conformance_in_tritons_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", QUICK, *TESTS],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout
