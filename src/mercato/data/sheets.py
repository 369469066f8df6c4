"""Spreadsheets (.xlsx, .xls, .ods) as rows of values."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import python_calamine

from mercato.errors import MercatoError


def read_sheet(path: Path, content: bytes, sheet: str | None) -> list[list[Any]]:
    """The rows of a sheet, the first by default, from the first that is not blank on; blank cells are null.

    Whole numbers, which spreadsheets keep as floats, are whole.

    Raises:
        MercatoError: it is no spreadsheet, or has no such sheet.
    """
    try:
        book = python_calamine.load_workbook(io.BytesIO(content))
        names = book.sheet_names
        if sheet is not None and sheet not in names:
            raise MercatoError(f"{path}: has no sheet {sheet!r}; it has {', '.join(names)}")
        rows = book.get_sheet_by_name(names[0] if sheet is None else sheet).to_python(skip_empty_area=True)
    except (python_calamine.CalamineError, OSError, IndexError, ValueError) as error:
        raise MercatoError(f"{path}: cannot be read: {error}") from None
    return [[_cell(value) for value in row] for row in rows]


def _cell(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == "" else value
