"""Windows of long texts: every token is in one, or the text is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrai.guards.windows import TooLongError, window_starts


@given(st.integers(0, 5000), st.integers(1, 200), st.integers(1, 64))
def test_windows_leave_no_gap_or_there_are_none(length, size, most):
    step = max(1, size - size // 4)
    needed = 1 if length <= size else 1 + -(-(length - size) // step)
    if needed > most:
        with pytest.raises(TooLongError, match=f"takes {needed} windows, and {most} are the most"):
            window_starts(length, size, most)
        return
    begins = window_starts(length, size, most)
    assert begins[0] == 0
    assert begins[-1] + size >= length
    assert all(after - before <= step for before, after in itertools.pairwise(begins))
    assert len(begins) <= most


def test_windows_by_hand():
    assert window_starts(10, 10, 1) == [0]
    assert window_starts(25, 10, 3) == [0, 8, 15]  # steps of 8 reach 26; evenly spread 0, 7.5, 15
    with pytest.raises(TooLongError, match="takes 3 windows, and 2 are the most"):
        window_starts(25, 10, 2)
