"""Lists on the command line: words with commas between them."""

__all__ = ["words"]


def words(text: str) -> tuple[str, ...]:
    """The words of a list, in order.

    Example:
        >>> words("none, batch,")
        ('none', 'batch')
    """
    return tuple(word.strip() for word in text.split(",") if word.strip())
