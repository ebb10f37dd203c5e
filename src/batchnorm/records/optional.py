"""Packages that only a part of this one needs: imported where they are used, and missed in one line."""

import importlib
import shlex
from types import ModuleType

__all__ = ["NotInstalledError", "import_optional"]


class NotInstalledError(ImportError):
    """What was asked for needs a package that is optional and absent: nobody's fault, and easily mended."""


def import_optional(module: str, asker: str, package: str) -> ModuleType:
    """Import a module that not every installation has.

    Args:
        module: Its name.
        asker: Who needs it, the beginning of the message.
        package: What pip is to install.

    Raises:
        NotInstalledError: If it, or something that it imports, is not there.
        ImportError: If it is there and broken.

    Example:
        >>> try:
        ...     import_optional("absent", "report: charts", "batchnorm[train]")
        ... except NotInstalledError as error:
        ...     print(error)
        report: charts expected absent to be installed, got none; pip install 'batchnorm[train]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f"{asker} expected {module} to be installed, got none; pip install {shlex.quote(package)}",
            name=error.name,
        ) from error
