"""What the pictures share: axes, titles, labels, colour bars, bars, grids.

A plot function draws on `ax`, a matplotlib Axes, and returns it. Without one, pyplot makes a figure of a fitting size
(which a notebook shows); an empty Figure is given that size and an Axes. All raise ImportError without matplotlib.
Figures are at most LARGEST inches wide and high; what is too much for that, or for the caller's Axes, has fewer labels.
"""
import functools
import math
import textwrap

import numpy as np

LARGEST = 20  # inches: 2,000 pixels at 100 to the inch
MASKED = "0.8"  # the grey of what a query must not see
CHARACTER = 0.6 / 72  # width of an average character of a font of size 1, in inches
LINE = 1.1 / 72  # height of its line


def figure_class():
    """matplotlib's Figure; ImportError, with what to install, without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib, which is not installed: pip install matplotlib (the numbers come "
                          "without it)") from None
    return Figure


def new_axes(ax, width, height, margins=(1.2, 1.0)):
    """(Axes to draw on, its width, its height), in inches.

    Where a new Axes is made it gets this size, as far as a figure of LARGEST inches allows, and the figure `margins`
    for labels; the caller's Axes stays as it is.
    """
    Figure = figure_class()
    if ax is not None and not isinstance(ax, Figure):
        width, height = (ax.get_window_extent().size / ax.figure.dpi).tolist()
        if ax.figure.get_layout_engine() is not None:  # it will take room for labels
            width, height = max(width - 0.8, 0.7 * width), max(height - 1.2, 0.6 * height)
        return ax, width, height
    size = [min(LARGEST, inner + margin) for inner, margin in zip((width, height), margins, strict=True)]
    if ax is None:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=size, layout="constrained")
    else:
        figure = ax
        figure.set_size_inches(size)
    return figure.add_subplot(), size[0] - margins[0], size[1] - margins[1]


def name_all(ax, title, width, x_label=None, y_label=None):
    """Set the title, in as many lines as `width` inches need (at most five), and the names of the axes."""
    size = 10 if width > 3 else 8
    (title,) = legible([title], longest=10**6)
    lines = textwrap.wrap(title, max(16, int(width / (size * CHARACTER))), max_lines=5, placeholder=" …")
    ax.set_title("\n".join(lines), size=size, parse_math=False, family=families(title))
    ax.set_xlabel(x_label or "", size=size)
    ax.set_ylabel(y_label or "", size=size)


def token_axis(axis, pieces, inches, starts=(0,), size=8, longest=14):
    """Label an axis with tokens, once from each of the places `starts`.

    Where the `inches` for one row of tokens do not give each a line of its own, only every so many are labelled.
    """
    step = max(1, math.ceil(len(pieces) * size * LINE / max(inches, 1e-3) - 0.01))
    labels = legible(pieces[::step], longest) if step <= len(pieces) else []
    axis.set_ticks([start + i * step for start in starts for i in range(len(labels))], labels=labels * len(starts),
                   size=size, parse_math=False, family=families("".join(labels)))
    axis.set_tick_params(length=2)
    if axis.axis_name == "x":
        axis.set_tick_params(rotation=90)


def number_axis(axis, n, inches, size=8, starts=(0,), every=1):
    """Label an axis with the numbers 0 to n - 1, as many of them as have room in `inches`, from each of `starts`; they
    are `every` so many places apart."""
    room = size * (LINE if axis.axis_name == "y" else (len(str(n - 1)) + 1) * CHARACTER)
    step = max(1, math.ceil(n * room / max(inches, 1e-3) - 0.01))
    ticks = range(0, n, step)
    labels = list(map(str, ticks)) * len(starts)
    axis.set_ticks([start + i * every for start in starts for i in ticks], labels=labels, size=size)
    axis.set_tick_params(length=2)


def legible(pieces, longest=14):
    """Pieces as matplotlib can show them: what no font here has becomes <U+C548>, what is too long is cut."""
    shown = lambda character: character if font_with(character) is not None else f"<U+{ord(character):04X}>"
    labels = ["".join(map(shown, piece)) for piece in pieces]
    return [label if len(label) <= longest else label[: longest - 1] + "…" for label in labels]


def families(text, first=None):
    """The fonts in which matplotlib can show every character of a text: its own, then those for what that lacks."""
    from matplotlib import rcParams

    others = {font_with(character): None for character in text}  # in the order in which they are met
    return [*([first] if first else rcParams["font.family"]), *(name for name in others if name)]


@functools.lru_cache(maxsize=2**14)
def font_with(character):
    """The name of a font that has a character: "" is matplotlib's own, None if there is none on this machine."""
    from matplotlib import font_manager

    own = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    if own.get_char_index(ord(character)):
        return ""
    fonts = (font for font in font_manager.fontManager.ttflist if is_plain(font) and _draws(font.fname, character))
    return next((font.name for font in fonts), None)


def is_plain(font):
    """Whether a font of matplotlib's list is upright and of normal weight, and not the one that draws boxes."""
    return font.style == "normal" and font.weight in (400, "normal") and not font.name.startswith("Last Resort")


def _draws(path, character):
    """Whether the font in a file has an outline for a character; one of coloured pictures has none."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(path)
        font.set_size(10, 72)
        return bool(font.get_char_index(ord(character))) and font.load_char(ord(character)).width > 0
    except (OSError, RuntimeError):  # not readable, or of fixed sizes
        return False


def colour_bar(image, ax, label, height):
    """A colour bar beside the Axes, as high as the picture, about `height` inches."""
    from matplotlib.transforms import Bbox

    size = 9 if height > 2 else 7
    label = "\n".join(textwrap.wrap(label, max(8, int(height / (size * CHARACTER)))))
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, fraction=0.05)
    bar.set_label(label, size=size)
    bar.ax.tick_params(labelsize=size - 1)

    def beside(bar_ax, _):
        bar_ax.set_box_aspect(None)  # the layout has set it
        ax.apply_aspect()
        box, figure = ax.get_position(), ax.figure.get_size_inches()
        return Bbox.from_bounds(box.x1 + 0.12 / figure[0], box.y0, 0.14 / figure[0], box.height)

    bar.ax.set_axes_locator(beside)
    return bar


def bars(ax, names, values, texts, x_label, y_label, title, errors=None):
    """Horizontal bars, the first on top, each with its name before it and its text behind it; with `errors`, one for
    each, there are error bars, too."""
    n = len(names)
    names = legible(names, longest=24)
    ax, width, height = new_axes(ax, 5, 0.24 * n, margins=(0.7 + max(map(len, names)) * 9 * CHARACTER, 1.1))
    size = min(9, height / n / LINE)  # of the names, so that each has its line
    drawn = ax.barh(range(n), values, color="C0", xerr=errors, error_kw={"elinewidth": 1})
    token_axis(ax.yaxis, names, height, size=max(size, 6), longest=24)
    ends = np.concatenate([values, values - errors, values + errors] if errors is not None else [values])
    low, high = min(0, *ends), max(0, *ends)
    if size > 5:
        ax.bar_label(drawn, texts, padding=3, size=size - 1)
        text = min(0.4, (0.1 + max(map(len, texts)) * (size - 1) * CHARACTER) / width)  # of the width, at either end
        room = text / (1 - text * (1 if low == 0 else 2)) * (high - low)
        low, high = low - (room if low < 0 else 0), high + room
    ax.set(xlim=(low, high), ylim=(n - 0.4, -0.6))
    name_all(ax, title, width + 1, x_label, y_label)
    ax.locator_params(axis="x", nbins=max(2, int(width)))
    ax.tick_params("x", labelsize=9 if width > 3 else 7)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_grid(values, ax, columns, x_label, bar_label, title, rows=None, errors=None):
    """A grid of `values` [n_layer, n_column], layer 0 on top: red below 0, blue above, white at 0.

    Args:
        values, ax: what to draw, and where, as in each plot function.
        columns: the columns' labels: a range of numbers, or pieces.
        x_label, bar_label, title: what the columns are, what the colours mean, and the title.
        rows: list of str, the rows' labels, as layer.head; if not given, they are the layers' numbers.
        errors: the standard errors of values that are means; what is within two of them of 0 is pale.
    """
    n_layer, n = values.shape
    n_lines, pale = 1 if errors is None else 2, np.zeros(values.shape, bool)  # of text in a cell
    if errors is not None:
        pale, bar_label = np.abs(values) < 2 * errors, f"{bar_label} (± standard error; pale: less than 2 of it from 0)"
    ax, width, height = new_axes(ax, max(3.4, 0.42 * n), max(1.6, 0.27 * n_lines * n_layer), margins=(1.6, 1.6))
    largest = np.abs(values).max() or 1
    image = ax.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest",
                      alpha=np.where(pale, 0.3, 1))
    size = min(8, 0.8 * height / n_layer / n_lines / LINE, width / n / (6 * CHARACTER))  # "-0.25" and some room
    if size >= 5:
        for place, value in np.ndenumerate(values):
            error = "" if errors is None else f"\n±{errors[place]:.2f}"
            ax.text(*place[::-1], f"{round(value, 2) + 0:.2f}{error}", ha="center", va="center", size=size,
                    in_layout=False, color="white" if abs(value) > 0.6 * largest and not pale[place] else "black")
    if isinstance(columns, range):
        number_axis(ax.xaxis, n, width)
    else:
        token_axis(ax.xaxis, columns, width)
    if rows is None:
        number_axis(ax.yaxis, n_layer, height)
    else:
        token_axis(ax.yaxis, rows, height)
    name_all(ax, title, width + 1, x_label, "layer" if rows is None else "layer.head")
    colour_bar(image, ax, bar_label, height)
    return ax


def plot_grids(grids, ax, x_label, bar_label, title, y_label="layer", every=None):
    """Grids {name: values from 0 up, [n_row, n_column]} side by side, row 0 on top.

    Args:
        every: number only every so many rows and columns, 0, 1, 2, ...: the layers, where there is one for each head.
    """
    n_rows, n = next(iter(grids.values())).shape
    gap = max(1, n // 12)
    cell = 0.3 if n <= 24 else 0.1
    ax, width, height = new_axes(ax, max(4.4, cell * len(grids) * (n + gap)), max(1.8, min(cell, 0.27) * n_rows),
                                 margins=(1.6, 1.5))
    starts = [i * (n + gap) for i in range(len(grids))]
    largest = max(float(values.max()) for values in grids.values()) or 1
    for start, (name, values) in zip(starts, grids.items(), strict=True):
        image = ax.imshow(values, cmap="viridis", vmin=0, vmax=largest, aspect="auto", interpolation="nearest",
                          extent=(start - 0.5, start + n - 0.5, n_rows - 0.5, -0.5))
        size = min(9, width * n / (starts[-1] + n) / len(name) / CHARACTER)
        ax.text(start + (n - 1) / 2, -0.6, name, ha="center", va="bottom", size=size)
    number_axis(ax.xaxis, n // (every or 1), width * n / (starts[-1] + n), starts=starts, every=every or 1)
    number_axis(ax.yaxis, n_rows // (every or 1), height, every=every or 1)
    ax.set(xlim=(-0.5, starts[-1] + n - 0.5), ylim=(n_rows - 0.5, -0.5 - 0.2 / height * n_rows))
    name_all(ax, title, width + 1, x_label, y_label)
    ax.spines[:].set_visible(False)
    colour_bar(image, ax, bar_label if largest > 0.99 else f"{bar_label} (brightest: {largest:.2g})", height)
    return ax
