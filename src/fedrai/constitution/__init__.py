"""The constitution: principles, critique and revision requests, demonstrations.

`document` holds the records and the draw, `reading` loads files, `checking` says what a file lacks.
Nothing here calls a model.
"""

from fedrai.constitution.document import Constitution, Demonstration, Principle
from fedrai.constitution.reading import load

__all__ = ["Constitution", "Demonstration", "Principle", "load"]
