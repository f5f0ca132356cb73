"""The pictures: every token is shown, labels stay legible, titles name model and text, sizes stay bounded."""
import io
import sys

import numpy as np
import pytest
from helpers import KOREAN, TEXT, random_model, read_png

import lens
from inside.pictures import families, font_with, is_plain, legible


def draw(plot, result):
    """The Axes of a picture without a display, drawn once; a character that the font lacks is an error."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    ax = plot(result, figure)
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    assert read_png(file.getvalue())[2] > 20
    assert ax.figure is figure
    return ax


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", [KOREAN, "x", (TEXT * 3)[:110]], ids=["korean", "one", "long"])
@pytest.mark.slow
def test_plots_show_every_token(shakespeare, text):
    result = lens.tokens(text, shakespeare)
    pieces, n = result.pieces, len(result.pieces)
    assert n == {KOREAN: 17, "x": 1}.get(text, n) and (n < 18 or 40 <= n < 50)
    ticks = lambda axis: [label.get_text() for label in axis.get_ticklabels()]
    ax = draw(lens.plot_tokens, result)
    assert [t.get_text() for t in ax.texts] == [s for i, piece in zip(result.ids, pieces) for s in (piece, str(i))]
    ax = draw(lens.plot_attention, lens.attention(text, shakespeare, 1, 5))
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == pieces
    pattern = ax.images[0].get_array()
    np.testing.assert_array_equal(pattern.mask, np.triu(np.ones((n, n), bool), 1))  # the causal mask is seen
    assert "token" in ax.get_xlabel() and "token" in ax.get_ylabel() and len(ax.figure.axes) == 2  # the colour bar
    ax = draw(lens.plot_attention, lens.attention(text, shakespeare, 1))
    assert len(ax.images) == 6 and ticks(ax.xaxis) == pieces * 3 and ticks(ax.yaxis) == pieces * 2
    ax = draw(lens.plot_logit_lens, lens.logit_lens(text, shakespeare))
    assert ticks(ax.yaxis) == pieces and len(ax.texts) == 6 * n and len(ax.figure.axes) == 2
    ax = draw(lens.plot_score, lens.score(text, shakespeare))
    assert ticks(ax.xaxis) == pieces and len(ax.patches) == n
    words = (result := lens.score(text, shakespeare, words=True)).words
    ax = draw(lens.plot_score, result)
    assert [bar.get_height() for bar in ax.patches] == [word.surprisal for word in words] and ax.get_xlabel() == "word"


@pytest.mark.filterwarnings("error")
@pytest.mark.slow
def test_bar_plots_and_a_given_axes(shakespeare):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3))
    for plot, result in ((lens.plot_next_tokens, lens.next_tokens(TEXT, shakespeare, k=7)),
                         (lens.plot_neighbours, lens.neighbours("king", shakespeare, k=7)),
                         (lens.plot_parameters, lens.parameters(shakespeare))):
        ax = draw(plot, result)
        assert len(ax.patches) == len(result[0]) and ax.get_xlabel() and ax.get_ylabel()
        given = figure.add_subplot()
        assert plot(result, given) is given
        assert [bar.get_width() for bar in given.patches] == list(result[2])
    assert figure.get_size_inches().tolist() == [9, 3]  # the figure of a given Axes stays as it is


def test_characters_that_no_font_has_are_named():
    labels = legible(["\U0010fffd", "·↵⇥", "a" * 30])
    assert labels == ["<U+10FFFD>", "·↵⇥", "a" * 13 + "…"] and families("\U0010fffd a") == families("a")


def test_pictures_of_means_show_their_standard_errors(shakespeare):
    from matplotlib.figure import Figure

    texts, answers = ["First Citizen. Second Citizen. First", "First Murderer. Second Murderer. First"], [" C", " M"]
    result = lens.ablation(texts, shakespeare, answers)
    ax = lens.plot_ablation(result, Figure())
    mean, error = result.change[1, 5], result.standard_error[1, 5]
    assert ax.texts[11].get_text() == f"{mean:.2f}\n±{error:.2f}"
    assert "± standard error" in ax.figure.axes[1].get_ylabel().replace("\n", " ")
    pale = np.abs(result.change) < 2 * result.standard_error
    np.testing.assert_array_equal(ax.images[0].get_alpha() < 0.5, pale)
    assert pale.any() and not pale[1, 5]
    result = lens.attribution(texts, shakespeare, answers)
    ax = lens.plot_attribution(result, Figure())
    ends = np.array([[segment[0, 0], segment[1, 0]] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(ends.mean(axis=1), result.values, atol=1e-6)
    np.testing.assert_allclose(np.diff(ends)[:, 0] / 2, result.standard_error, atol=1e-6)
    clean, corrupted = [texts[1]] * 2, ["First Senator. Second Senator. First", "First Murderer. Second Senator. First"]
    result = lens.patching(clean, corrupted, shakespeare, " M", " S", "z", by_position=True)
    alpha = lens.plot_patching(result, Figure()).images[0].get_alpha()
    np.testing.assert_array_equal(alpha < 0.5, (np.abs(result.grid) < 2 * result.standard_error).reshape(36, -1))
    one = lens.plot_ablation(lens.ablation(texts[0], shakespeare, " C"), Figure())
    assert (one.images[0].get_alpha() == 1).all() and "±" not in one.texts[0].get_text()


@pytest.mark.filterwarnings("error")  # of glyphs that the fonts lack
def test_characters_that_another_font_has_are_shown_with_it(shakespeare):
    from matplotlib import font_manager, rcParams

    own = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    names = {font.name for font in font_manager.fontManager.ttflist if is_plain(font)}
    path = lambda name: font_manager.findfont(font_manager.FontProperties(family=[name]))
    fonts = [font_manager.get_font(path(name)) for name in names]
    character = next(chr(code) for code in range(0x2100, 0x10000) if not own.get_char_index(code)
                     and any(font.get_char_index(code) for font in fonts))
    if font_with(character) is None:
        pytest.skip("all fonts here have the same characters")
    assert legible([character]) == [character] and families(character)[:-1] == rcParams["font.family"]
    assert font_manager.get_font(path(families(character)[-1])).get_char_index(ord(character))
    result = lens.next_tokens("O " + character, shakespeare)
    ax = draw(lens.plot_next_tokens, result)
    assert character in ax.get_title() and ax.title.get_fontfamily()[-1] == font_with(character)


def test_a_grid_of_small_scores_is_scaled_to_them_and_says_so(shakespeare):
    scores = np.zeros((6, 6))
    scores[2, 3] = 0.03
    small = lens.Induction(scores, scores / 2, scores, scores)
    ax = draw(lens.plot_induction, small)
    assert [image.get_clim() for image in ax.images] == [(0, 0.03)] * 4
    bars = [bar.get_ylabel().replace("\n", " ") for bar in ax.figure.axes if bar is not ax]
    assert bars == ["score (brightest: 0.03)"]
    ax = draw(lens.plot_induction, lens.Induction(*[scores / 0.03] * 4))
    assert ax.images[0].get_clim() == (0, 1) and ax.figure.axes[1].get_ylabel() == "score"


def test_without_matplotlib_the_numbers_come_and_the_error_says_what_to_install(shakespeare, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        lens.plot_tokens(lens.tokens("x", shakespeare))


# --- titles, sizes, overlaps ---


@pytest.fixture(scope="module")
def large():
    """A model with as many layers and heads as the 124M, and random weights."""
    return random_model(n_vocab=1024, n_ctx=1024, n_embd=24, n_head=12, n_layer=12)


def every_picture(text, model):
    """(plot function, its result) of each question about a text."""
    corrupted = [7, *lens.tokens(text, model).ids[1:]]
    return [(lens.plot_tokens, lens.tokens(text, model)), (lens.plot_next_tokens, lens.next_tokens(text, model)),
            (lens.plot_attention, lens.attention(text, model)),
            (lens.plot_attention, lens.attention(text, model, 1, 2)),
            (lens.plot_logit_lens, lens.logit_lens(text, model)),
            (lens.plot_attribution, lens.attribution(text, model, 5, heads=True)),
            (lens.plot_ablation, lens.ablation(text, model, 5)),
            (lens.plot_ablation, lens.ablation(text, model, 5, "mlp_out")),
            (lens.plot_patching, lens.patching(text, corrupted, model, 5)),
            (lens.plot_patching, lens.patching(text, corrupted, model, 5, at="z")),
            (lens.plot_patching, lens.attribution_patching(text, corrupted, model, 5, at="z", by_position=True)),
            (lens.plot_induction, lens.induction(model, n=9)), (lens.plot_circuits, lens.circuits(model)),
            (lens.plot_saliency, lens.saliency(text, model, 5)),
            (lens.plot_detect_heads, lens.detect_heads(text, model, np.eye(len(corrupted)))),
            (lens.plot_parameters, lens.parameters(model))]


def overlapping(artists, renderer):
    """Pairs of texts that lie over each other by more than a hair, as strings."""
    boxes = [(artist.get_text(), artist.get_window_extent(renderer)) for artist in artists if artist.get_text()]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
    hidden = [(a[0], b[0]) for a, b in pairs if min(a[1].x1, b[1].x1) - max(a[1].x0, b[1].x0) > 1.5
              and min(a[1].y1, b[1].y1) - max(a[1].y0, b[1].y0) > 1.5]
    return hidden


def assert_legible(ax, dpi):
    """No label of the Axes covers another, the colour bar stands beside the picture and is as high."""
    figure = ax.figure
    figure.set_dpi(dpi)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    shown = [[label for label, place in zip(axis.get_ticklabels(), axis.get_ticklocs()) if low <= place <= high]
             for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim())))]
    for labels in (*shown, ax.texts):
        assert overlapping(labels, renderer) == []
    assert overlapping([ax.title, *ax.texts[:30]], renderer) == []
    for bar in ax.figure.axes:
        if bar.get_label() == "<colorbar>":
            bar, box = bar.get_window_extent(), ax.get_window_extent()
            assert bar.y0 == pytest.approx(box.y0, abs=1) and bar.y1 == pytest.approx(box.y1, abs=1)
            assert 0 < bar.x0 - box.x1 < 0.3 * dpi


def on_a_figure(plot, result):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return plot(result, figure)


@pytest.mark.slow
def test_every_picture_names_the_model_and_the_text(shakespeare):
    pictures = every_picture(TEXT, shakespeare) + [(lens.plot_score, lens.score(TEXT, shakespeare)),
                                                   (lens.plot_neighbours, lens.neighbours("king", shakespeare))]
    for plot, result in pictures:
        ax = on_a_figure(plot, result)
        title = ax.get_title().replace("\n", " ")
        assert title.startswith("shakespeare: "), plot
        if plot not in (lens.plot_tokens, lens.plot_induction, lens.plot_parameters, lens.plot_neighbours,
                        lens.plot_circuits):
            assert "Second Citizen:↵No.↵↵First”" in title, plot  # of patching, the clean text
        assert_legible(ax, 100)
    unnamed = (None, shakespeare.hparams, shakespeare.params)
    assert lens.parameters(unnamed).title == "GPT-2 of 6 layers, 6 heads, width 192: 2,915,328 parameters"


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 30, 173, 1000])
def test_pictures_stay_small_enough_and_their_labels_legible(large, n):
    ids = np.random.default_rng(0).integers(0, 1024, n)
    pictures = every_picture(ids, large) if n < 100 else [
        (lens.plot_tokens, lens.tokens(ids, large)), (lens.plot_attention, lens.attention(ids, large)),
        (lens.plot_attention, lens.attention(ids, large, 1, 2)), (lens.plot_logit_lens, lens.logit_lens(ids, large))]
    for plot, result in pictures:
        ax = on_a_figure(plot, result)
        assert max(ax.figure.get_size_inches()) <= 20, plot
        assert_legible(ax, 100)
        sizes = [text.get_size() for text in (*ax.get_xticklabels(), *ax.get_yticklabels(), *ax.texts)]
        assert min(sizes) >= 5, plot


@pytest.mark.parametrize("width, height, layout", [
    (2.6, 2.2, None), (2.6, 2.2, "constrained"), (4, 3, None), (4, 3, "constrained")])
@pytest.mark.slow
def test_pictures_on_a_small_axes_do_not_overlap(shakespeare, width, height, layout):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for plot, result in every_picture(TEXT, shakespeare):
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(figure)
        ax = plot(result, figure.add_subplot())
        assert figure.get_size_inches().tolist() == [width, height]
        assert_legible(ax, 100)


@pytest.mark.slow
def test_a_long_logit_lens_names_every_token_and_its_layers_above_too(large):
    ax = on_a_figure(lens.plot_logit_lens, lens.logit_lens(np.arange(192), large))
    assert len(ax.get_yticklabels()) == 192 and len(ax.texts) == 192 * 12
    assert ax.get_yticklabels()[0].get_size() >= 5.5
    assert ax.xaxis.get_tick_params()["labeltop"] and ax.xaxis.get_tick_params()["labelbottom"]
