"""The book in a real browser, from a folder: it draws, finds, fits, and fetches nothing from elsewhere."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from batchnorm.records import Figure
from batchnorm.report import write_book
from tests.report.synthetic_verdicts import book, curve, verdict

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_book(book(), tmp_path_factory.mktemp("book")).parent


@pytest.fixture
def visit_book(browser: Browser, site: Path) -> Iterator[Open]:
    contexts, complaints = [], []

    def visit(name: str = "index.html", width: int = 1280, **options: str) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "request",
            lambda r: complaints.append(f"request: {r.url}") if not r.url.startswith(site.as_uri()) else None,
        )
        page.goto((site / name).as_uri())
        page.evaluate("window.reportDrawn")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def follow(page: Page, link: str) -> None:
    """Go where a link leads, and wait until the page there is drawn: a click alone waits for neither."""
    with page.expect_event("load"):
        page.get_by_role("link", name=link).click()
    page.evaluate("window.reportDrawn")


def test_a_reader_finds_a_claim_and_reads_it(visit_book: Open):
    page = visit_book()
    page.get_by_role("searchbox").fill("sequences")
    assert page.locator("tbody tr:visible").count() == 1
    assert page.locator("#found").text_content() == "1 shown"
    follow(page, "Sequences do poorly.")
    assert page.locator("h1").text_content() == "Sequences do poorly."
    follow(page, "C02")
    assert page.locator(".lede .verdict").text_content() == "holds in part"


def test_a_search_for_nothing_says_so(visit_book: Open):
    page = visit_book()
    page.get_by_role("searchbox").fill("zebra holds")
    assert page.locator("tbody tr:visible").count() == 0
    assert page.get_by_text("No claim has these words.").is_visible()
    page.get_by_role("searchbox").fill("")
    assert page.locator("tbody tr:visible").count() == 4


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["index.html", "c01-claim-1.html", "c02-claim-2.html", "c04-claim-4.html"])
def test_nothing_overflows(visit_book: Open, name: str, width: int):
    page = visit_book(name, width=width)
    assert overflow(page) == 0
    for summary in page.locator("summary").all():
        summary.click()
    assert overflow(page) == 0


def test_every_chart_draws(visit_book: Open):
    page = visit_book("c02-claim-2.html")
    marks = page.eval_on_selector_all(
        ".plot",
        """plots => plots.map(plot => [...plot.querySelectorAll('.mark-symbol path, .mark-line path')]
            .map(mark => mark.getBBox()).filter(box => box.width || box.height).length)""",
    )
    # 3 series at 3 places; 2 lines with 4 points each in each of two facets
    assert marks == [9, 10, 10]
    assert page.locator(".panel h3").all_text_contents() == ["first layer", "second layer"]
    assert page.locator(".legend").first.locator("li").all_text_contents() == ["none", "batch", "group"]


def test_ticks_are_numbers_as_people_write_them(browser: Browser, tmp_path: Path):
    rows = tuple({"series": "batch", "x": x, "mean": x, "low": x, "high": x} for x in range(0, 301, 20))
    write_book([verdict(1, figures=(curve(rows=rows, x_scale="linear"),))], tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / "c01-claim-1.html").as_uri())
    page.evaluate("window.reportDrawn")
    ticks = page.locator(".role-axis-label text").all_text_contents()
    assert {"0", "100", "200", "300"} <= set(ticks)
    assert all(tick.isdigit() for tick in ticks)
    page.close()


def test_whole_numbers_have_no_ticks_between_them(browser: Browser, tmp_path: Path):
    rows = tuple({"series": "batch", "x": x, "mean": 10.0 * x, "low": x, "high": x} for x in (1, 2, 4))
    write_book([verdict(1, figures=(curve(rows=rows, x_scale="linear"),))], tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / "c01-claim-1.html").as_uri())
    page.evaluate("window.reportDrawn")
    ticks = page.locator(".role-axis-label text").all_text_contents()
    assert ticks[:4] == ["1", "2", "3", "4"]
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_what_was_measured_is_in_sight_beside_its_verdict(visit_book: Open, width: int):
    page = visit_book("c01-claim-1.html", width=width)
    cell = page.locator(".conditions tbody td", has_text="2.7").bounding_box()
    assert cell is not None
    assert cell["x"] + cell["width"] <= width


@pytest.mark.parametrize(("width", "leaning"), [(390, True), (1280, False)])
def test_names_lean_only_where_they_would_overlap(
    browser: Browser, tmp_path: Path, width: int, leaning: bool
):
    names = [f"a long name of a place, {number}" for number in range(5)]
    rows = tuple({"series": "batch", "x": name, "mean": 0.5, "low": 0.4, "high": 0.6} for name in names)
    figure = Figure("f", "Accuracy", "dot", "place", "accuracy", "95 %", rows, x_scale="nominal")
    write_book([verdict(1, figures=(figure,))], tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto((tmp_path / "c01-claim-1.html").as_uri())
    page.evaluate("window.reportDrawn")
    labels = page.locator(".role-axis-label text").filter(has_text="a long name")
    assert labels.all_text_contents() == names
    assert ["rotate" in (label.get_attribute("transform") or "") for label in labels.all()] == [
        leaning
    ] * len(names)
    page.close()


def test_pointing_at_a_point_tells_its_interval(visit_book: Open):
    page = visit_book("c01-claim-1.html")
    page.locator(".mark-symbol path").first.hover()
    words = page.locator("#vg-tooltip-element").inner_text().split()
    assert {"series", "mean", "low", "high"} <= set(words)


def test_the_theme_is_remembered_from_page_to_page(visit_book: Open):
    page = visit_book(color_scheme="light")
    day = page.evaluate(BACKGROUND)
    page.get_by_role("button", name="Dark").click()
    night = page.evaluate(BACKGROUND)
    assert night != day
    follow(page, "Claim number 1.")
    assert page.evaluate(BACKGROUND) == night
    assert visit_book(color_scheme="dark").evaluate(BACKGROUND) == night


def test_without_a_mouse(visit_book: Open):
    page = visit_book()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "search"
