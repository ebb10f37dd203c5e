"""Every page can be used without a mouse, without colours, narrow, and by ear."""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from batchnorm.report import render_diagnosis, write_book, write_report
from tests.report import synthetic, test_diagnosis
from tests.report.conftest import Visit
from tests.report.synthetic_verdicts import book

pytestmark = pytest.mark.browser

PAGES = ["report", "sample", "diagnosis", "index", "claim"]
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def paths(report: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("accessible")
    index = write_book(book(), directory)
    diagnosis = directory / "diagnosis.html"
    layers = [test_diagnosis.channels("first"), test_diagnosis.channels("second")]
    diagnosis.write_text(render_diagnosis("m.py:f", test_diagnosis.diagnosis(), layers))
    return {
        "report": report,
        "sample": write_report(synthetic.run(data="embedded-sample"), directory, pictures=False),
        "diagnosis": diagnosis,
        "index": index,
        "claim": directory / "c02-claim-2.html",
        "playground": Path(__file__).parents[2] / "docs" / "playground" / "index.html",
    }


@pytest.fixture
def see(browser: Browser, paths: dict[str, Path]) -> Iterator[Open]:
    contexts = []

    def open_page(name: str, width: int = 1280, height: int = 844, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.goto(paths[name].as_uri())
        page.evaluate("window.reportDrawn")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", [*PAGES, "playground"])
def test_axe_finds_nothing(see: Open, name: str, width: int, scheme: str):
    """With ``AXE``, the script of axe-core, which `make axe` fetches."""
    if "AXE" not in os.environ:
        pytest.skip("AXE names no script of axe-core")
    page = see(name, width, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate(Path(os.environ["AXE"]).read_text())
    violations = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations] == []


@pytest.mark.parametrize("name", PAGES)
def test_headings_tables_and_landmarks_are_in_order(see: Open, name: str):
    page = see(name)
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.locator("h1, h2, h3, h4, h5").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.locator("[role=img] :is(h1, h2, h3, h4, h5)").count() == 0
    heads = page.locator("th")
    assert all(text.strip() for text in heads.all_text_contents())
    assert heads.evaluate_all("all => all.every(one => one.scope)")
    assert page.get_by_role("main").count() == 1
    outside = page.locator(".mark, button, select, input, a:not(.skip)").evaluate_all(
        "all => all.filter(one => !one.closest('main, header, nav, footer, [role=region]')).length"
    )
    assert outside == 0


@pytest.mark.parametrize("name", ["report", "diagnosis", "claim"])
def test_a_chart_is_one_image_whose_name_says_its_numbers(see: Open, name: str):
    page = see(name)
    charts = page.locator("[role=img]")
    assert charts.count() == page.locator("svg.marks").count() > 0
    names = charts.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert all(re.search(r": .*\d", words) for words in names)
    # the marks inside say nothing more
    assert (
        page.locator("[role=graphics-symbol]:not([aria-hidden=true] *):not([aria-hidden=true])").count() == 0
    )


@pytest.mark.parametrize("name", PAGES)
def test_at_400_percent_nothing_scrolls_sideways_and_no_bar_covers_the_page(see: Open, name: str):
    page = see(name, width=320, height=211)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    page.evaluate("scrollTo(0, 1500)")
    for bar in page.locator(".bar").all():
        assert bar.evaluate("bar => getComputedStyle(bar).position") == "static"


@pytest.mark.parametrize("name", PAGES)
def test_every_control_shows_where_the_keyboard_is(see: Open, name: str):
    page = see(name)
    count = page.locator("a, button:visible, select:visible, input:visible, summary:visible").count()
    unseen = set()
    for _ in range(min(count, 25)):
        page.keyboard.press("Tab")
        style = page.evaluate(
            "(({ outlineStyle, outlineWidth }) => [outlineStyle, parseFloat(outlineWidth)])"
            "(getComputedStyle(document.activeElement))"
        )
        if style[0] == "none" or style[1] < 2:
            unseen.add(page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
    assert unseen == set()


def test_arms_can_be_told_apart_without_colours(visit: Visit, report: Path):
    page = visit(report)
    chart = page.locator('[data-chart="loss"]')
    dashes = chart.locator(".mark-line path[stroke-width='2.25']").evaluate_all(
        "all => all.map(one => one.getAttribute('stroke-dasharray'))"
    )
    assert len(dashes) == len(set(dashes)) == 2
    points = chart.locator(".mark-symbol").first.locator("path")
    assert len(set(points.evaluate_all("all => all.map(one => one.getAttribute('d'))"))) == 2
    keys = page.locator("[data-arm] .key")
    assert keys.count() == 2
    shown = keys.locator("path:first-child").evaluate_all(
        "all => all.map(one => one.getAttribute('stroke-dasharray').split(' ').join(','))"
    )
    assert sorted(shown) == sorted(dashes)


def test_series_of_a_study_can_be_told_apart_without_colours(see: Open):
    page = see("claim")
    points = page.locator(".plot").first.locator(".mark-symbol path")
    assert len(set(points.evaluate_all("all => all.map(one => one.getAttribute('d'))"))) == 3
    keys = page.locator(".legend").first.locator(".key path:last-child")
    assert len(set(keys.evaluate_all("all => all.map(one => one.getAttribute('d'))"))) == 3


def test_the_readers_own_colours_leave_keys_and_switches_visible(visit: Visit, report: Path):
    page = visit(report, forced_colors="active", color_scheme="dark")
    keys = page.locator("[data-arm] .key path:first-child")
    strokes = keys.evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
    assert len(set(strokes)) == 2
    button = page.get_by_role("button", name="Seeds")
    background = "one => getComputedStyle(one).backgroundColor"
    pressed = button.evaluate(background)
    button.click()
    assert button.evaluate(background) != pressed


def test_the_bands_are_a_table_too(visit: Visit, report: Path):
    page = visit(report)
    page.locator("#quantiles summary").focus()
    page.keyboard.press("Enter")
    rows = page.locator("#quantiles tbody tr")
    rows.first.wait_for()
    assert rows.count() == 4 * 2 * 11  # layers, arms, epochs
    median = rows.nth(10).locator("td").nth(2 + 3).inner_text()
    words = page.locator('[data-kind="inputs"] .plot').first.get_attribute("aria-label")
    assert f"Epoch 10: median {float(median):.3g}".replace("-", "−") in words
    page.get_by_role("button", name="none").click()
    page.wait_for_function("document.querySelectorAll('#quantiles tbody tr').length === 4 * 11")


@pytest.mark.parametrize(
    ("name", "mark"), [("report", '[data-chart="loss"] .mark-symbol >> nth=-1'), ("claim", ".mark-symbol")]
)
def test_escape_takes_a_tooltip_away(see: Open, name: str, mark: str):
    page = see(name)
    page.locator(mark).locator("path").first.hover()
    tooltip = page.locator("#vg-tooltip-element")
    assert tooltip.is_visible()
    page.keyboard.press("Escape")
    assert not tooltip.is_visible()


@pytest.mark.parametrize("name", ["report", "claim"])
def test_without_scripts_the_tables_stay_and_the_page_says_what_is_missing(see: Open, name: str):
    page = see(name, java_script_enabled=False)
    words = page.locator("noscript p")
    assert "need JavaScript" in words.text_content()
    assert words.is_visible()
    assert page.get_by_role("table").first.is_visible()
