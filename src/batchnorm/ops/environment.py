"""Where a run was made: versions, machine, settings that change its speed."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from batchnorm.ops.native import instruction_set

__all__ = ["describe_environment"]


def describe_environment() -> dict[str, Any]:
    """Versions, commit, processor, threads and allocator setting, as plain JSON values."""
    return {
        "batchnorm": metadata.version("batchnorm"),
        "commit": _commit(),
        "torch": torch.__version__,
        "triton": _triton(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instruction_set": instruction_set(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE"),
        "command": " ".join(["batchnorm", *sys.argv[1:]]),
    }


def _triton() -> str | None:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree, if the package runs from one."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
