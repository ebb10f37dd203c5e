"""The page to play with: its arithmetic is the reference's, and a person without mouse or eyes can use it."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from batchnorm.reference import batch_norm_forward, batch_norm_predict, batch_stats, update_running_stats

pytestmark = pytest.mark.browser

PAGE = Path(__file__).parents[2] / "docs" / "playground" / "index.html"


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    page = context.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if r.url != PAGE.as_uri() else None)
    page.goto(PAGE.as_uri())
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(autouse=True)
def as_it_begins(page: Page) -> None:
    page.evaluate("byId('controls').reset(); byId('restart').click()")


def set_value(page: Page, name: str, value: float) -> None:
    page.evaluate("([name, value]) => { byId(name).value = value; }", [name, value])
    page.locator(f"#{name}").dispatch_event("input")


def said(page: Page) -> str:
    return page.get_by_role("status").inner_text()


SETTINGS = st.fixed_dictionaries(
    {
        "size": st.integers(2, 64),
        "mean": st.integers(-50, 50).map(lambda n: n / 10),
        "spread": st.integers(0, 40).map(lambda n: n / 10),
        "gamma": st.integers(-30, 30).map(lambda n: n / 10),
        "beta": st.integers(-30, 30).map(lambda n: n / 10),
        "eps": st.integers(-8, 1),
        "momentum": st.integers(0, 100).map(lambda n: n / 100),
    }
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=SETTINGS, outlier=st.booleans(), batches=st.integers(1, 4))
def test_the_arithmetic_is_the_references(page: Page, chosen, outlier, batches):
    page.evaluate("byId('controls').reset(); byId('restart').click()")
    for name, value in chosen.items():
        set_value(page, name, value)
    page.get_by_label("One sample is an outlier").set_checked(outlier)
    running = (np.zeros(2), np.ones(2), 0)
    weight, bias, eps = [chosen["gamma"], 1], [chosen["beta"], 0], 10.0 ** chosen["eps"]
    for _ in range(batches):
        page.get_by_role("button", name="Next batch").click()
        shown = page.evaluate("playground.pass()")
        mean, var = batch_stats(shown["x"])
        running = update_running_stats(*running, mean, var, chosen["size"], chosen["momentum"])
    expected = batch_norm_forward(shown["x"], weight, bias, eps)
    np.testing.assert_allclose(shown["y"], expected, rtol=1e-9, atol=1e-9)
    state = page.evaluate("playground.state()")
    np.testing.assert_allclose(state["running"]["mean"], running[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state["running"]["variance"], running[1], rtol=1e-12, atol=1e-12)
    page.get_by_label("Predict").check()
    shown = page.evaluate("playground.pass()")
    expected = batch_norm_predict(shown["x"], running[0], running[1], weight, bias, eps)
    np.testing.assert_allclose(shown["y"], expected, rtol=1e-9, atol=1e-9)
    page.get_by_role("button", name="Next batch").click()
    assert page.evaluate("playground.state().running") == state["running"]


def test_a_batch_of_one_is_beta_and_moves_nothing(page: Page):
    set_value(page, "size", 1)
    set_value(page, "beta", 1.3)
    for mean in (-4, 3):
        set_value(page, "mean", mean)
        assert page.evaluate("playground.pass().y[0]") == [1.3, 0]
    page.get_by_role("button", name="Next batch").click()
    assert page.evaluate("playground.state().running") == {"mean": [0, 0], "variance": [1, 1]}
    assert "the output is beta, 1.3, whatever the input" in said(page)
    page.get_by_label("Predict").check()
    assert "a single sample is fine" in said(page)


def test_the_running_mean_chases_the_truth(page: Page):
    for _ in range(6):
        page.get_by_role("button", name="Ten batches").click()
    assert page.evaluate("playground.state().running.mean[0]") == pytest.approx(2, abs=0.3)
    assert page.locator("#chase-mean .batch").count() == 60
    assert "After 60 batches the running mean is" in page.locator("#chase-mean").get_attribute("aria-label")
    page.get_by_role("button", name="Start again").click()
    assert page.locator("#chase-mean .batch").count() == 0


def test_an_outlier_squeezes_the_others_in_training_only(page: Page):
    spread = """(() => {
        const others = playground.pass().y.slice(1).map((row) => row[0]);
        return Math.max(...others) - Math.min(...others);
    })()"""
    before = page.evaluate(spread)
    page.get_by_label("One sample is an outlier").check()
    assert page.evaluate(spread) < 0.7 * before
    assert "squeezed" in said(page)
    page.get_by_label("Predict").check()
    after = page.evaluate(spread)
    page.get_by_label("One sample is an outlier").uncheck()
    assert page.evaluate(spread) == after


def test_everything_is_reached_and_named_from_the_keyboard(page: Page):
    page.reload()
    names = []
    for _ in range(13):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')")
        )
    controls = ["size", "mean", "spread", "outlier", "gamma", "beta", "eps", "momentum", "train"]
    assert names == [*controls, "step", "ten", "restart", "Table, scrolls sideways"]
    slider = page.get_by_role("slider", name="gamma")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "1.1"
    for image in page.get_by_role("img").all():
        assert len(image.get_attribute("aria-label")) > 20


def test_pictures_say_their_numbers(page: Page):
    x, y = page.evaluate("[playground.pass().x, playground.pass().y]")
    for kind, samples in (("before", x), ("after", y)):
        words = page.locator(f"#scatter-{kind}").get_attribute("aria-label").replace("−", "-")
        told = [float(number) for ends in re.findall(r"from (\S+) to (-?[\d.]*\d)", words) for number in ends]
        ends = [end for feature in zip(*samples, strict=True) for end in (min(feature), max(feature))]
        assert told == pytest.approx(ends, abs=0.006)


def test_buttons_can_be_read_in_the_readers_own_colours(browser: Browser):
    page = browser.new_page(forced_colors="active", color_scheme="dark")
    page.goto(PAGE.as_uri())
    colours = "one => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]"
    looks = [page.locator(f"#{name}").evaluate(colours) for name in ("step", "ten")]
    page.close()
    assert looks[0] == looks[1]  # both the system's: a text of ours on its plate would vanish


def test_without_scripts_the_page_says_that_it_needs_them(browser: Browser):
    page = browser.new_page(java_script_enabled=False)
    page.goto(PAGE.as_uri())
    assert "needs JavaScript" in page.locator("noscript p").text_content()
    assert page.locator("noscript p").is_visible()
    page.close()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 844})
    page.get_by_role("button", name="Ten batches").click()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    page.set_viewport_size({"width": 1280, "height": 900})
