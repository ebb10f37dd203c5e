"""Compile the CPU kernels: ``python -m batchnorm.ops.build``.

The library is linked for PyTorch's stable ABI, version 2.10, so one build serves every later torch. The
kernel file is compiled once for each dtype and instruction set; the CPU chooses when the library is
loaded. This module imports only the standard library: `setup.py` uses it where torch is not importable.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["LIBRARY", "BuildError", "Toolchain", "build", "find_toolchain", "main"]

SOURCES = Path(__file__).with_name("csrc")
LIBRARY = Path(__file__).with_name("_native.so")

DTYPES = ("float32", "bfloat16", "float16", "float64")
INSTRUCTION_SETS = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-march=skylake-avx512", "-mprefer-vector-width=512"),
}
FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    # vectors do not set errno or raise floating-point exceptions; NaN and infinity keep their meaning
    "-fno-math-errno",
    "-fno-trapping-math",
    "-DTORCH_TARGET_VERSION=0x020a000000000000ULL",
)


class BuildError(Exception):
    """The kernels cannot be compiled; the text is one line."""


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """What compiles the kernels.

    Attributes:
        compiler: Command that compiles C++20.
        torch: Directory of the installed torch package, for its headers and libraries.
    """

    compiler: str
    torch: Path


def find_toolchain() -> Toolchain:
    """Find a compiler (``CXX``, else ``c++``, ``g++`` or ``clang++``) and an installed torch.

    Pip builds in an isolated environment where torch cannot be imported, but ``purelib`` is still the
    directory of the environment that is installed into.

    Raises:
        BuildError: If one of them is missing, or the platform is none we compile for.
    """
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"build: platform expected linux or darwin, got {sys.platform}")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise BuildError("build: a C++20 compiler expected in CXX or on PATH, got none")
    spec = importlib.util.find_spec("torch")
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in (*places, f"{sysconfig.get_path('purelib')}/torch"):
        if Path(place, "include/torch/csrc/stable/library.h").exists():
            return Toolchain(compiler, Path(place))
    raise BuildError("build: headers of an installed torch >= 2.10 expected, got none")


def build(output: Path, toolchain: Toolchain) -> None:
    """Compile everything, in parallel, and link ``output``.

    ``CXXFLAGS`` and ``LDFLAGS`` are appended to ours, which is how sanitizers are asked for.

    Args:
        output: The shared library to write; replaced only if all goes well.
        toolchain: From `find_toolchain`.

    Raises:
        BuildError: If a command fails; its output has been printed.
    """
    with tempfile.TemporaryDirectory() as directory:
        commands = _compile_commands(toolchain, Path(directory))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            # the slowest first
            for finished in [pool.submit(_run, command) for command in commands]:
                finished.result()
        linked = Path(directory, output.name)
        objects = sorted(str(path) for path in Path(directory).glob("*.o"))
        _run([*shlex.split(toolchain.compiler), *objects, *_link_flags(toolchain), "-o", str(linked)])
        output.parent.mkdir(parents=True, exist_ok=True)
        beside = output.with_name(f"{output.name}.new")
        shutil.copy(linked, beside)
        beside.replace(output)


def _compile_commands(toolchain: Toolchain, objects: Path) -> list[list[str]]:
    compiler = [*shlex.split(toolchain.compiler), *FLAGS]
    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    commands = []
    for name, flags in _instruction_sets().items():
        for dtype in DTYPES:
            macros = [f"-DBATCHNORM_ISA={name}", f"-DBATCHNORM_DTYPE={dtype}"]
            output = objects / f"family_{name}_{dtype}.o"
            commands.append(
                [*compiler, *flags, *macros, *extra, "-c", f"{SOURCES}/family.cpp", "-o", str(output)]
            )
    for source in sorted(SOURCES.glob("*.cpp")):
        if source.stem != "family":
            include = ["-isystem", f"{toolchain.torch}/include"]
            output = objects / f"{source.stem}.o"
            commands.append([*compiler, *include, *extra, "-c", str(source), "-o", str(output)])
    return commands


def _instruction_sets() -> dict[str, tuple[str, ...]]:
    if platform.machine().lower() in ("x86_64", "amd64"):
        return INSTRUCTION_SETS
    return {"baseline": ()}


def _link_flags(toolchain: Toolchain) -> list[str]:
    extra = shlex.split(os.environ.get("LDFLAGS", ""))
    if sys.platform == "darwin":
        return ["-bundle", "-undefined", "dynamic_lookup", *extra]
    # Without a run path: torch is loaded before us, and the loader finds its library by name. Stripped,
    # because the linker would keep every template's symbol.
    return ["-shared", f"-L{toolchain.torch}/lib", "-ltorch_cpu", "-s", *extra]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.stdout:
        print(done.stdout, file=sys.stderr, end="")
    if done.returncode != 0:
        raise BuildError(f"build: exit code 0 expected of {shlex.join(command)}, got {done.returncode}")


def _up_to_date(output: Path) -> bool:
    if not output.exists():
        return False
    built = output.stat().st_mtime
    return all(path.stat().st_mtime < built for path in (Path(__file__), *SOURCES.iterdir()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile the kernels beside this module, unless they are newer than their sources.

    Returns:
        0 if they are there, 1 if they cannot be compiled; one line on standard error says why.
    """
    parser = argparse.ArgumentParser(prog="python -m batchnorm.ops.build", description=main.__doc__)
    parser.add_argument("--force", action="store_true", help="compile even if nothing has changed")
    force = parser.parse_args(arguments).force
    if _up_to_date(LIBRARY) and not force:
        return 0
    try:
        build(LIBRARY, find_toolchain())
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
