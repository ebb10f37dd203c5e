"""The console: how wide it is, whatever ``COLUMNS`` says."""

import pytest

from batchnorm.cli.progress import make_console

LINE = " ".join(["word"] * 60)


@pytest.fixture
def terminal(monkeypatch):
    """Standard output taken for a terminal whose size nobody knows."""
    monkeypatch.setenv("FORCE_COLOR", "1")


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("0", 80), ("-5", 80), ("4e1", 80), ("", 80)])
def test_a_terminal_is_as_wide_as_columns_says_if_that_is_a_width(
    terminal, monkeypatch, capsys, columns, width
):
    monkeypatch.setenv("COLUMNS", columns)
    console = make_console(False)
    assert console.width == width
    console.print(LINE)
    assert capsys.readouterr().out.split() == LINE.split()


@pytest.mark.parametrize("columns", ["0", "-5", "4e1", "40"])
def test_what_is_no_terminal_gets_every_line_whole(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    make_console(False).print(LINE)
    assert capsys.readouterr().out == f"{LINE}\n"
