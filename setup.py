"""Adds the compiled CPU kernels to the package where they can be built; all else is in pyproject.toml.

Why it is done here and not by a build requirement on torch: decisions/0004-native-build.md.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


def load_build() -> ModuleType:
    """Import ``batchnorm.ops.build`` without its package, which needs torch."""
    spec = importlib.util.spec_from_file_location(
        "batchnorm_build", Path(__file__).with_name("src") / "batchnorm/ops/build.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


native = load_build()


class BuildKernels(build_ext):
    """Builds with our own commands: setuptools cannot compile one file with several sets of flags."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name without a Python version: the library does not know Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Compile; a failure leaves a package without kernels, and one line that says so."""
        try:
            native.build(Path(self.get_ext_fullpath(ext.name)), toolchain)
        except native.BuildError as error:
            without_kernels(error)


class AnyPython(bdist_wheel):
    """A wheel for one platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Keep the platform, drop the interpreter and its ABI."""
        return "py3", "none", super().get_tag()[2]


def without_kernels(error: Exception) -> None:
    """Say once why the package comes without compiled kernels."""
    print(f"batchnorm without compiled kernels, eager backend only: {error}", file=sys.stderr)


try:
    toolchain = native.find_toolchain()
except native.BuildError as error:
    without_kernels(error)
    setup()
else:
    sources = sorted(str(path) for path in Path("src/batchnorm/ops/csrc").glob("*.cpp"))
    setup(
        ext_modules=[Extension("batchnorm.ops._native", sources, optional=True)],
        cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
    )
