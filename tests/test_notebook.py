"""The notebook runs from top to bottom, and its committed outputs are what a run gives."""
import base64
import re

import nbformat
import pytest
from helpers import ROOT, read_png
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NUMBER = r"\d+(?:\.\d+)?"
PATH = ROOT / "notebooks" / "inside_gpt2.ipynb"


def outputs(notebook):
    """(printed text of each code cell, pictures as PNG data)"""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = ["".join(output.text for output in cell.outputs if output.get("name") == "stdout") for cell in cells]
    pictures = [base64.b64decode(output["data"]["image/png"]) for cell in cells for output in cell.outputs
                if "image/png" in output.get("data", {})]
    return texts, pictures


def run_notebook(notebook, folder):
    """Run all code cells with the working directory `folder`; raises where a cell does."""
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_is_committed():
    committed = nbformat.read(PATH, as_version=4)
    nbformat.validate(committed)
    assert PATH.stat().st_size < 2**20
    notebook = nbformat.read(PATH, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    run_notebook(notebook, PATH.parent)
    (texts, pictures), (committed_texts, committed_pictures) = outputs(notebook), outputs(committed)
    assert re.sub(NUMBER, "#", "".join(texts)) == re.sub(NUMBER, "#", "".join(committed_texts))
    numbers, committed_numbers = ([float(number) for number in re.findall(NUMBER, "".join(run))]
                                  for run in (texts, committed_texts))
    assert numbers == pytest.approx(committed_numbers, abs=0.02)  # another processor may round a last digit otherwise
    assert len(pictures) == len(committed_pictures) == 14
    for picture, shown in zip(pictures, committed_pictures):
        for data in (picture, shown):
            width, height, n_values = read_png(data)
            assert 300 < width < 1200 and 100 < height < 900 and n_values > 20
    warned = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", [])
                     if output.get("name") == "stderr")
    assert "Warning" not in warned  # of glyphs that the font lacks, for instance


def first_cell():
    """The notebook up to its first code cell, without outputs."""
    notebook = nbformat.read(PATH, as_version=4)
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells = notebook.cells[: first + 1]
    notebook.cells[first].outputs = []
    return notebook


@pytest.mark.slow
def test_the_notebook_finds_the_modules_from_the_repositorys_root_too():
    notebook = first_cell()
    run_notebook(notebook, ROOT)
    assert "'n_head': 6" in notebook.cells[-1].outputs[0]["data"]["text/plain"]


@pytest.mark.slow
def test_the_notebook_says_where_to_start_it_when_it_finds_no_modules(tmp_path):
    with pytest.raises(CellExecutionError, match=r"gpt2.py is neither in .* nor above it: start Jupyter in the repo"):
        run_notebook(first_cell(), tmp_path)


def test_remarks_stand_behind_the_cells_that_they_are_about():
    cells = [cell.source for cell in nbformat.read(PATH, as_version=4).cells]
    remark = next(i for i, source in enumerate(cells) if source.startswith("The `·C` of `Citizen` is what suffers"))
    assert "tokens that lost most" in cells[remark - 1]


def test_a_result_at_the_end_of_a_cell_is_a_table():
    cells = nbformat.read(PATH, as_version=4).cells
    (cell,) = (cell for cell in cells if cell.source.startswith("lens.saliency("))
    assert cell.outputs[0]["data"]["text/html"].count("<tr>") == 1 + 21
