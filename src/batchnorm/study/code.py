"""The version of the code that a function rests on: only what it imports, without words and spaces.

A package's version or commit would do, but would run hours of trials again for a comment.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

__all__ = ["code_version"]

PACKAGE = "batchnorm"


@functools.cache
def code_version(module: str) -> str:
    """Hash over a module and everything of this package that it imports, directly or not.

    Comments, docstrings and layout do not count. The kernels' C++ counts as it stands, if
    `batchnorm.ops` is among the imports. A module of another package stands for itself alone. Import from
    modules, not from the package that gathers them, what should not drag the rest of that package in.

    Args:
        module: Its full name.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = _file(name)
        if path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = ast.dump(_without_docstrings(tree))
        waiting += _imports(tree)
        if name == f"{PACKAGE}.ops":
            for source in sorted((path.parent / "csrc").glob("*")):
                found[source.name] = source.read_text(encoding="utf-8")
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]


def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):  # the name of something inside a module
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imports(tree: ast.AST) -> Iterator[str]:
    """Names that may be modules of this package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        # the package itself imports nothing of consequence: its names are imported when used
        yield from (name for name in names if name.startswith(f"{PACKAGE}."))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree
