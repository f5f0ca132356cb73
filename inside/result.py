"""Named tuples that know what they are about: a title, the runs they are compared with, a table for notebooks."""
import html
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cli.tables import Table

T = TypeVar("T")


class Baseline(NamedTuple):
    """A whole run, with which others are compared: its name, the value of the metric, what the model says next (a
    piece; over several texts, how often it is the answer), how likely that is, and whether it is the answer."""

    name: str
    value: float
    says: str
    probability: float | None
    right: bool


def titled(named_tuple: type[T]) -> type[T]:
    """Class decorator: give a named tuple attributes that are not among its fields, so that it unpacks to its arrays.

    Attributes:
        title: str, which model and text it is about.
        baseline: list of `Baseline`, the runs that it compares with, and
        metric: str, what of them is compared.
        n_texts: over how many texts the arrays are means, and
        standard_error: of the first array, an array of its shape; None for one text.
    """
    attributes: dict[str, Any] = {"title": "", "baseline": [], "metric": "", "n_texts": 1, "standard_error": None,
                                  "_repr_html_": as_html}
    return type(named_tuple.__name__, (named_tuple,),
                {**attributes, "__doc__": named_tuple.__doc__, "__module__": named_tuple.__module__})


def with_title(result: T, title: str, metric: str = "", baseline: list[Baseline] | None = None) -> T:
    """The result, with its title set, and what it is compared with."""
    result.title, result.metric, result.baseline = title, metric, baseline or []  # type: ignore[attr-defined]
    return result


def table_of(named_tuple: type) -> Callable:
    """Decorator of the function that makes a table, or several, of such a result: notebooks show it so."""

    def decorate(table):
        named_tuple.table = table  # type: ignore[attr-defined]
        return table

    return decorate


def as_html(result) -> str:
    """The tables of a result for a notebook, under its title."""
    tables = result.table()
    text = [f"<p>{html.escape(result.title)}</p>"]
    for table in [tables] if isinstance(tables, Table) else tables:
        sides = ["right" if side == ">" else "left" for side in table.align]
        rows = [*(["th", row] for row in [table.header] if row), *(["td", row] for row in table.rows)]
        text.append("<table>")
        for tag, row in rows:
            cells = zip(sides, row, strict=True)
            text.append("<tr>" + "".join(f'<{tag} style="text-align: {side}; white-space: pre">{html.escape(cell)}'
                                         f"</{tag}>" for side, cell in cells) + "</tr>")
        text.append("</table>")
    return "\n".join(text)


def baseline_table(result) -> Table:
    """What a result is compared with, as the table that comes before its own."""
    return Table("<><", ["", result.metric, "the model says"],
                 [[run.name, f"{run.value:+.2f}", run.says + (f" {run.probability:.0%}" if run.probability else "")]
                  for run in result.baseline])


def with_error(result, place: Any, digits: int = 2, sign: str = "+") -> str:
    """A number of the result's first array as a cell of its table, with the standard error if there is one."""
    values = next(field for field in result if isinstance(field, np.ndarray))
    value = f"{round(float(values[place]), digits) + 0:{sign}.{digits}f}"  # + 0: no -0.00
    return value if result.standard_error is None else f"{value} ±{result.standard_error[place]:.{digits}f}"
