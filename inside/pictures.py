"""What the pictures share: axes, titles, labels, colour bars, bars.

A plot function draws on `ax`, a matplotlib Axes, and returns it. Without one, pyplot makes a figure of a fitting size
(which a notebook shows); an empty Figure is given that size and an Axes. All raise ImportError without matplotlib.
"""
import textwrap

MASKED = "0.8"  # the grey of what a query must not see


def figure_class():
    """matplotlib's Figure; ImportError, with what to install, without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib, which is not installed: pip install matplotlib (the numbers come "
                          "without it)") from None
    return Figure


def new_axes(ax, width, height):
    """The Axes to draw on; where a new one is made, the figure has this size in inches."""
    Figure = figure_class()
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    if isinstance(ax, Figure):
        ax.set_size_inches(width, height)
        return ax.add_subplot()
    return ax


def set_title(ax, title):
    """The title, in as many lines as the width of the Axes needs."""
    width = ax.get_window_extent().width / ax.figure.dpi  # inches
    (title,) = legible([title], longest=10**6)
    ax.set_title("\n".join(textwrap.wrap(title, max(20, int(width / 0.09)))), size=10, parse_math=False)


def token_axis(axis, pieces, starts=(0,), size=8):
    """Label an axis with tokens, once from each of the places `starts`; of more than 100 tokens only every so many."""
    step = -(-len(pieces) // 100)
    labels = legible(pieces[::step])
    axis.set_ticks([start + i * step for start in starts for i in range(len(labels))], labels=labels * len(starts),
                   size=size, parse_math=False)
    axis.set_tick_params(length=2)
    if axis.axis_name == "x":
        axis.set_tick_params(rotation=90)


def legible(pieces, longest=14):
    """Pieces as matplotlib can show them: what its font lacks becomes <U+C548>, what is too long is cut."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    labels = ["".join(character if font.get_char_index(ord(character)) else f"<U+{ord(character):04X}>"
                      for character in piece) for piece in pieces]
    return [label if len(label) <= longest else label[: longest - 1] + "…" for label in labels]


def colour_bar(image, ax, label):
    """A colour bar to the right of the Axes."""
    return ax.figure.colorbar(image, ax=ax, label=label, pad=0.02)


def bars(ax, names, values, texts, x_label, y_label, title):
    """Horizontal bars, the first on top, each with its name before it and its text behind it."""
    ax = new_axes(ax, 6.5, 1.1 + 0.24 * len(names))
    drawn = ax.barh(range(len(names)), values, color="C0")
    ax.bar_label(drawn, texts, padding=3, size=8)
    ax.set_yticks(range(len(names)), legible(names, longest=24), size=9, parse_math=False)
    ax.set(ylim=(len(names) - 0.4, -0.6), xlabel=x_label, ylabel=y_label)
    set_title(ax, title)
    ax.margins(x=0.3)  # room for the texts
    if min(values) >= 0:
        ax.set_xlim(left=0)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
