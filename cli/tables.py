"""Tables in a terminal: columns aligned, no wider than the screen."""
import os
import shutil
import sys
import unicodedata
from typing import NamedTuple


class Table(NamedTuple):
    """Rows of str to print in columns: align has "<" or ">" for each; header may be None. If they do not fit into the
    terminal's width they are printed in blocks, each of which repeats the first n_repeated columns."""

    align: str
    header: list[str] | None
    rows: list[list[str]]
    n_repeated: int = 0


def print_tables(tables: Table | list[Table]) -> None:
    """Print tables, an empty line between them, no wider than the terminal, if there is one."""
    width = terminal_width()
    for i, table in enumerate([tables] if isinstance(tables, Table) else tables):
        if i:
            print()
        print_table(table, width)


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; no limit if stdout is a file or a pipe."""
    if "COLUMNS" in os.environ or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return sys.maxsize


def print_table(table: Table, width: int) -> None:
    """Print a table no wider than `width` columns; a wide (East Asian) character counts twice."""
    rows = table.rows if table.header is None else [table.header, *table.rows]
    sizes = [max(map(_size, column), default=0) for column in zip(*rows, strict=True)]
    fixed, used = list(range(table.n_repeated)), width + 1
    blocks: list[list[int]] = []
    for i in range(table.n_repeated, len(sizes)):
        if used + 2 + sizes[i] > width and (table.n_repeated or not blocks):
            blocks.append(list(fixed))
            used = sum(sizes[j] + 2 for j in fixed) - 2
        blocks[-1].append(i)
        used += 2 + sizes[i]
    for n, columns in enumerate(blocks):
        if n:
            print()
        for row in rows:
            cells = [_pad(row[i], sizes[i], table.align[i]) for i in columns]
            print(_cut("  ".join(cells).rstrip(), width))


def _size(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _pad(cell: str, size: int, side: str) -> str:
    space = " " * (size - _size(cell))
    return space + cell if side == ">" else cell + space


def _cut(line: str, width: int) -> str:
    if _size(line) <= width:
        return line
    while _size(line) >= width:
        line = line[:-1]
    return line + "…"
