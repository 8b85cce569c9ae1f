"""Where the windows of a long text begin; a text of too many windows is not judged at all."""

from __future__ import annotations


class TooLongError(ValueError):
    """A text needs more windows than a guard looks at."""


def window_starts(length: int, size: int, most: int) -> list[int]:
    """Where windows begin that overlap by a quarter and are evenly spread over a text.

    Args:
        length: length of the text in tokens.
        size: length of a window in tokens.
        most: windows that a guard looks at.

    Raises:
        TooLongError: it takes more of them; with fewer there would be gaps.
    """
    last = max(0, length - size)
    count = 1 + -(-last // max(1, size - size // 4))
    if count > most:
        raise TooLongError(f"the text takes {count} windows, and {most} are the most")
    return sorted({round(last * i / max(1, count - 1)) for i in range(count)})
