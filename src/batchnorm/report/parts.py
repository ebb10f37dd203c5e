"""The pieces of HTML, style and script that pages are made of, as they lie beside this module."""

from importlib import resources

__all__ = ["part"]


def part(folder: str, name: str) -> str:
    """A file's text.

    Args:
        folder: ``page``, of a run and a diagnosis, or ``book``, of studies.
        name: In it.
    """
    return resources.files("batchnorm.report").joinpath(folder, name).read_text(encoding="utf-8")
