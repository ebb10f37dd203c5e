"""Pages of runs, opened in the browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from batchnorm.records import RunRecord
from batchnorm.report import write_report
from tests.report import synthetic

Visit = Callable[..., Page]


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an ordinary run: two arms, three seeds, ten epochs, four layers."""
    return write_report(synthetic.run(), tmp_path_factory.mktemp("ordinary"), pictures=False)


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    """Open a page, or the page of a run, and wait for its charts; nothing may complain or be fetched."""
    contexts, complaints = [], []

    def open_page(source: Path | RunRecord, width: int = 1280, **options: str) -> Page:
        path = write_report(source, tmp_path, pictures=False) if isinstance(source, RunRecord) else source
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "request", lambda r: complaints.append(f"request: {r.url}") if r.url != path.as_uri() else None
        )
        page.goto(path.as_uri())
        page.evaluate("window.reportDrawn")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
