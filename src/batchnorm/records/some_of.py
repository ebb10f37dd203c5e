"""Long lists in one line."""

from collections.abc import Iterable

__all__ = ["some_of"]


def some_of(words: Iterable[str], most: int) -> str:
    """The first words, and how many more there are; empty if there are none.

    Example:
        >>> some_of(["a", "b", "c", "d"], 3)
        'a, b, c and 1 more'
    """
    listed = list(words)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
