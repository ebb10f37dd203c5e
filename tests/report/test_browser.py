"""The page in a real browser: it draws, answers, fits and prints."""

import pytest
from playwright.sync_api import Page

from tests.report import synthetic
from tests.report.conftest import Visit

pytestmark = pytest.mark.browser

MARKS = ".mark-line path, .mark-area path, .mark-rect path, .mark-symbol path"


def drawn(page: Page) -> list[dict[str, float]]:
    """Each chart's width, height and number of marks that have a shape."""
    return page.eval_on_selector_all(
        ".plot",
        f"""plots => plots.map(plot => {{
            const {{ width, height }} = plot.querySelector('svg').getBoundingClientRect();
            const boxes = [...plot.querySelectorAll('{MARKS}')].map(mark => mark.getBBox());
            const marks = boxes.filter(box => box.width || box.height).length;
            return {{ width, height, marks, label: plot.getAttribute('aria-label') }};
        }})""",
    )


def colours(page: Page, chart: str) -> set[str]:
    """Computed colours of the lines of a curve."""
    return set(
        page.eval_on_selector_all(
            f'[data-chart="{chart}"] .mark-line path',
            "lines => lines.map(line => getComputedStyle(line).stroke)",
        )
    )


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def settle(page: Page) -> None:
    """Wait until the charts have answered a control: Vega draws in the next tasks."""
    page.evaluate("Promise.all([...curves, ...cells].map(chart => chart.done))")


@pytest.mark.parametrize("width", [390, 1280])
def test_every_chart_draws_and_nothing_overflows(visit: Visit, report, width):
    page = visit(report, width=width)
    charts = drawn(page)
    # 4 curves; 4 layers, each with 2 arms' inputs, 2 statistics, 2 parameters
    assert len(charts) == 4 + 4 * 6
    for chart in charts:
        assert chart["marks"] >= 2, chart
        assert chart["width"] > 120, chart
        assert chart["height"] > 100, chart
        assert chart["label"], chart
    assert overflow(page) == 0
    page.get_by_text("Accuracies as tables").click()
    page.get_by_text("Each seed", exact=True).click()
    assert overflow(page) == 0


def test_an_arm_can_be_hidden_and_shown_from_the_keyboard(visit: Visit, report):
    page = visit(report)
    both = colours(page, "loss")
    assert len(both) == 2
    chip = page.get_by_role("button", name="none")
    chip.focus()
    page.keyboard.press("Enter")
    settle(page)
    assert chip.get_attribute("aria-pressed") == "false"
    assert len(colours(page, "loss")) == 1
    assert page.locator('[data-kind="inputs"] .plot:visible').count() == 4  # only arm batch is left
    page.keyboard.press("Space")
    settle(page)
    assert colours(page, "loss") == both
    assert page.locator('[data-kind="inputs"] .plot:visible').count() == 8


def test_the_bounds_follow_the_arms_shown(visit: Visit, report):
    page = visit(report)
    labels = '[data-chart="loss"] .role-axis-label text'
    assert "2.0" in page.locator(labels).all_text_contents()
    page.get_by_role("button", name="none").click()
    settle(page)
    assert "2.0" not in page.locator(labels).all_text_contents()


def test_the_lines_of_single_seeds_can_be_hidden(visit: Visit, report):
    page = visit(report)
    opacity = "lines => lines.map(line => getComputedStyle(line).opacity)"
    lines = '[data-chart="loss"] .mark-line path'
    assert sorted(page.eval_on_selector_all(lines, opacity)) == ["0.4"] * 6 + ["1"] * 2
    page.get_by_role("button", name="Seeds").click()
    settle(page)
    assert sorted(page.eval_on_selector_all(lines, opacity)) == ["0"] * 6 + ["1"] * 2


def test_the_theme_follows_the_system_and_the_reader_and_is_remembered(visit: Visit, report):
    page = visit(report, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    day, day_lines = page.evaluate(background), colours(page, "loss")
    button = page.get_by_role("button", name="Dark")
    assert day == "rgb(255, 255, 255)"
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    night, night_lines = page.evaluate(background), colours(page, "loss")
    assert night != day
    assert day_lines.isdisjoint(night_lines)
    page.reload()
    page.evaluate("window.reportDrawn")
    assert page.evaluate(background) == night
    assert button.get_attribute("aria-pressed") == "true"
    system = visit(report, color_scheme="dark")
    assert system.evaluate(background) == night
    assert colours(system, "loss") == night_lines


def test_one_layer_can_be_chosen(visit: Visit, report):
    page = visit(report)
    page.get_by_role("combobox", name="Layer").select_option("norm2")
    settle(page)
    assert page.locator("[data-kind] h4").all_text_contents() == ["norm2"] * 3
    assert page.locator('[data-kind="affine"] .plot').first.locator(".mark-symbol path").count() == 16
    assert all(chart["marks"] >= 2 for chart in drawn(page))


def test_the_epoch_moves_the_points_by_keyboard(visit: Visit, report):
    page = visit(report)
    plot = page.locator('[data-kind="statistics"] .plot').first
    where = "points => points.map(point => point.getAttribute('transform'))"
    last = plot.locator(".mark-symbol path").evaluate_all(where)
    page.get_by_role("slider", name="Epoch").focus()
    page.keyboard.press("Home")
    settle(page)
    assert page.locator("#epoch-now").text_content() == "0"
    assert page.locator(".at").all_text_contents() == ["at epoch 0"] * 2
    assert "epoch 0" in (plot.get_attribute("aria-label") or "")
    first = plot.locator(".mark-symbol path").evaluate_all(where)
    assert len(first) == len(last) == 6
    assert first != last


def test_arms_can_have_scales_of_their_own(visit: Visit, report):
    page = visit(report)
    labels = page.locator('[data-kind="inputs"] .plot').first.locator(".role-axis-label text")
    shared = labels.all_text_contents()
    page.get_by_role("checkbox").uncheck()
    settle(page)
    assert labels.all_text_contents() != shared


def test_another_seed_shows_other_numbers(visit: Visit, report):
    page = visit(report)
    page.get_by_text("The channels shown, as a table").click()
    cell = page.locator("#values tbody tr td:last-child").first
    before = cell.text_content()
    page.get_by_role("combobox", name="Seed").select_option("2")
    settle(page)
    assert page.locator("#values caption").text_content() == "Epoch 10, seed 2"
    assert page.locator("#values tbody tr").count() == 6 + 16 + 120 + 84
    assert cell.text_content() != before


def test_pointing_at_a_curve_tells_arm_epoch_and_mean(visit: Visit, report):
    page = visit(report)
    page.locator('[data-chart="loss"]').scroll_into_view_if_needed()
    page.locator('[data-chart="loss"] .mark-symbol').last.locator("path").first.hover()
    tooltip = page.locator("#vg-tooltip-element").inner_text().split()
    assert tooltip[0:4:2] == ["arm", "epoch"]
    assert tooltip[1] in ("none", "batch")
    assert tooltip[3].isdigit()
    assert {"mean", "sd", "seeds"} <= set(tooltip)


def test_pointing_at_a_band_tells_the_quantiles(visit: Visit, report):
    page = visit(report)
    plot = page.locator('[data-kind="inputs"] .plot').first
    plot.scroll_into_view_if_needed()
    plot.hover()
    tooltip = page.locator("#vg-tooltip-element")
    assert "50% below" in tooltip.inner_text()
    assert "undefined" not in tooltip.inner_text()
    assert "NaN" not in tooltip.inner_text()


def test_print_is_light_without_controls_and_fits_the_paper(visit: Visit, report):
    page = visit(report, color_scheme="dark")
    night = colours(page, "loss")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert colours(page, "loss").isdisjoint(night)
    assert not page.locator(".bar").first.is_visible()
    widths = [chart["width"] for chart in drawn(page)]
    assert max(widths) <= 680
    assert min(widths) > 100
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert max(chart["width"] for chart in drawn(page)) > 1000
    assert len(page.pdf(format="A4")) > 50_000


def test_a_setting_cannot_break_out_of_the_page(visit: Visit):
    attack = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    run = synthetic.run(layers={attack: 3}, seeds=(0,), epochs=2, lr=attack, model=attack)
    page = visit(run)
    assert page.evaluate("window.broken") is None
    assert attack in page.locator("#settings").inner_text()
    assert attack in page.locator("[data-kind] h4").first.inner_text()


PARTIAL = {
    "one arm": synthetic.run(arms=("batch",), seeds=(0,), epochs=3),
    "one epoch": synthetic.run(seeds=(0,), epochs=1),
    "no layers": synthetic.run(layers={}),
    "without normalization": synthetic.run(arms=("none",), seeds=(0,)),
    "diverged": synthetic.run(diverged=[("none", 0), ("none", 1), ("none", 2), ("batch", 1)]),
    "in progress": synthetic.unfinished(),
    "sample": synthetic.run(arms=("none", "batch", "torch", "scratch"), data="embedded-sample"),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_unusual_runs_draw(visit: Visit, name):
    page = visit(PARTIAL[name], width=390)
    charts = drawn(page)
    assert len(charts) >= 4
    assert all(chart["marks"] >= 1 for chart in charts if chart["height"] and "none" not in chart["label"])
    assert overflow(page) == 0


def test_a_run_before_its_first_epoch_has_a_page(visit: Visit):
    page = visit(synthetic.run(epochs=0))
    assert "no epoch yet" in page.locator(".lede").inner_text()


def test_a_deep_network_has_a_selector_instead_of_a_hundred_charts(visit: Visit):
    run = synthetic.deep(seeds=(0,), epochs=4)
    page = visit(run)
    assert page.locator("#layer option").count() == 1 + 109
    assert page.locator("[data-kind='statistics'] h4").count() == 6
    page.get_by_role("combobox", name="Layer").select_option("blocks.57.norm")
    settle(page)
    assert page.locator("[data-kind] h4").all_text_contents() == ["blocks.57.norm"] * 3
    assert all(chart["marks"] >= 2 for chart in drawn(page))
