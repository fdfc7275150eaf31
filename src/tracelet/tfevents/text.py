"""An array of strings as Markdown: one string as it is, a list or a table as a table."""

from __future__ import annotations

from typing import Sequence

from tracelet.tfevents.tensor import read_strings, read_tensor
from tracelet.tfevents.wire import Span, Wire, WireError


def read_text(wire: Wire, span: Span) -> str:
    """
    Return the text of a string tensor of at most two dimensions.

    Raises:
        WireError: Not a tensor of UTF-8 strings, or it has more dimensions than a table.
    """
    tensor = read_tensor(wire, span)
    try:
        strings = [text.decode("utf-8") for text in read_strings(wire, tensor)]
    except UnicodeDecodeError as error:
        raise WireError("a text that is not UTF-8") from error
    if len(strings) == 1:
        return strings[0]
    if len(tensor.shape) > 2 or not strings:
        raise WireError("a text of an unknown shape")
    columns = tensor.shape[1] if len(tensor.shape) == 2 else 1
    rows = [strings[start : start + columns] for start in range(0, len(strings), columns)]
    # Markdown has no table without a head, so it gets an empty one.
    lines = [_row([""] * columns), _row(["---"] * columns), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\r\n", "\n").replace("\n", "<br>")
