"""A clock that a test sets."""


class Clock:
    """Gives the seconds that stand in `now`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
