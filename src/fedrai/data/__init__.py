"""Rows of any file, hub dataset or embedded set, and the examples that a training takes from them.

`opening` gives bytes and lines within limits, `lists` and `tables` read JSON and CSV, `formats`
tells which; `columns` says where in a row a conversation stands, `texts` reads its turns, `loading`
makes examples of a dataset. Dividing them over clients is `partition.py`'s.
"""

from fedrai.data.columns import ANSWERS, USUAL, Places, answers_in, places_of, shown
from fedrai.data.formats import SUFFIXES, Row, format_of, lines_of, read_file
from fedrai.data.loading import (
    EMBEDDED,
    INSTEAD,
    Loaded,
    commonest,
    hint_for,
    is_local,
    load,
    load_source,
    rows,
)
from fedrai.data.opening import AS_IT_IS, Reading, check_regular, text_of
from fedrai.data.tables import rows_of_csv
from fedrai.data.texts import ROLES, as_text, encodable, is_talk, turns_of

__all__ = [
    "ANSWERS",
    "AS_IT_IS",
    "EMBEDDED",
    "INSTEAD",
    "ROLES",
    "SUFFIXES",
    "USUAL",
    "Loaded",
    "Places",
    "Reading",
    "Row",
    "answers_in",
    "as_text",
    "check_regular",
    "commonest",
    "encodable",
    "format_of",
    "hint_for",
    "is_local",
    "is_talk",
    "lines_of",
    "load",
    "load_source",
    "places_of",
    "read_file",
    "rows",
    "rows_of_csv",
    "shown",
    "text_of",
    "turns_of",
]
