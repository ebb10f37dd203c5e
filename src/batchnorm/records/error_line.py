"""An exception as records and messages hold it."""

__all__ = ["error_line"]


def error_line(error: BaseException) -> str:
    r"""Kind and words of an exception, in one line.

    Example:
        >>> error_line(ValueError("two\n   lines"))
        'ValueError: two lines'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
