"""Rows of any file, hub dataset or embedded set, and the examples for training.

`opening` reads bytes and lines within limits, `lists` and `tables` read JSON and CSV, and `formats`
chooses between them. `columns` finds the conversation in a row, `texts` reads its turns, `loading`
makes examples of a dataset, and `partition` divides them over clients.
"""

from fedrai.data.columns import (
    ANSWERS,
    REQUEST_COLUMNS,
    USUAL,
    RowColumns,
    answer_columns,
    find_columns,
    printable_names,
)
from fedrai.data.formats import SUFFIXES, Row, format_of, lines_of, read_file
from fedrai.data.loading import (
    DATASET_HINT,
    EMBEDDED,
    Dataset,
    encoding_hint,
    is_local,
    load,
    most_common_problem,
    rows,
)
from fedrai.data.opening import DEFAULT_OPTIONS, ReadOptions, check_regular, text_of
from fedrai.data.pairs import pair_of
from fedrai.data.tables import rows_of_csv
from fedrai.data.texts import ROLES, as_text, encodable, is_conversation, turns_of

__all__ = [
    "ANSWERS",
    "DATASET_HINT",
    "DEFAULT_OPTIONS",
    "EMBEDDED",
    "REQUEST_COLUMNS",
    "ROLES",
    "SUFFIXES",
    "USUAL",
    "Dataset",
    "ReadOptions",
    "Row",
    "RowColumns",
    "answer_columns",
    "as_text",
    "check_regular",
    "encodable",
    "encoding_hint",
    "find_columns",
    "format_of",
    "is_conversation",
    "is_local",
    "lines_of",
    "load",
    "most_common_problem",
    "pair_of",
    "printable_names",
    "read_file",
    "rows",
    "rows_of_csv",
    "text_of",
    "turns_of",
]
