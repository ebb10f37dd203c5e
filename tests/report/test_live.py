"""The live view: the report's page, kept up to date, for whoever has its address and nobody else."""

import dataclasses
import http.client
import json
import threading

import pytest
from playwright.sync_api import Browser

from batchnorm.records import FaultRecord, Finding, Fix, RunRecord, append_fault
from batchnorm.report.live import LiveView
from tests.report import synthetic


def write(run: RunRecord, directory):
    (directory / "config.json").write_text(json.dumps(run.config))
    (directory / "environment.json").write_text(json.dumps(run.environment))
    for name, rows in (("metrics.jsonl", run.epochs), ("layers.jsonl", run.layers)):
        (directory / name).write_text("".join(json.dumps(row.to_dict()) + "\n" for row in rows))


def first_epochs(epochs: int) -> RunRecord:
    run = synthetic.run(seeds=(0,), epochs=3)
    kept = {
        name: tuple(row for row in getattr(run, name) if row.epoch <= epochs) for name in ("epochs", "layers")
    }
    return dataclasses.replace(run, **kept)


def get(view: LiveView, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(view.authority, timeout=20)
    connection.request(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    return connection.getresponse()


@pytest.fixture
def view(tmp_path):
    write(first_epochs(1), tmp_path)
    with LiveView(tmp_path) as view:
        yield view


def test_the_page_is_the_reports(view):
    answer = get(view, f"/{view.token}/")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    page = answer.read().decode()
    assert "LeNet with and without batch normalization" in page
    assert "EventSource" in page
    assert view.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        ("/{token}", {"Host": "evil.example"}, 403),
        ("/{token}/", {"Host": "localhost:80"}, 403),
        ("/{token}/", {"Origin": "https://evil.example"}, 403),
        ("/{token}/events", {"Origin": "null"}, 403),
        ("/{token}/events", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/{token}x/", {}, 403),
        ("/{token}/config.json", {}, 404),
        ("/{token}/../config.json", {}, 404),
    ],
)
def test_whoever_does_not_belong_gets_nothing(view, path, headers, status):
    answer = get(view, path.format(token=view.token), **headers)
    assert answer.status == status
    assert view.token not in answer.read().decode()
    assert answer.headers["Access-Control-Allow-Origin"] is None


def test_the_page_has_the_faults(view):
    finding = Finding("BN012", "slow", "warn", "norm1", "Slow.", {}, Fix("advice", "wait"))
    append_fault(view.directory, FaultRecord("batch", 0, 1, finding))
    assert "Found by the doctor during training" in get(view, f"/{view.token}/").read().decode()


def test_a_record_that_cannot_be_read_is_said_on_the_page_and_not_in_the_terminal(view, capsys):
    (view.directory / "metrics.jsonl").write_text("{\n")
    answer = get(view, f"/{view.token}/")
    assert answer.status == 500
    assert "metrics.jsonl expected JSON on line 1" in answer.read().decode()
    assert capsys.readouterr() == ("", "")


def test_two_views_have_two_secrets(tmp_path):
    with LiveView(tmp_path) as one, LiveView(tmp_path) as other:
        assert one.token != other.token
        assert get(one, f"/{other.token}/").status == 403


def test_a_run_that_has_not_begun_is_said(tmp_path):
    with LiveView(tmp_path) as view:
        answer = get(view, f"/{view.token}/")
        assert answer.status == 503
        page = answer.read().decode()
        assert "<h1>The run has not begun yet.</h1>" in page
        assert '<html lang="en">' in page
        assert "http-equiv" not in page  # a page must not be thrown away while somebody reads it


@pytest.mark.browser
def test_a_browser_that_comes_before_the_run_need_not_come_again(browser: Browser, tmp_path):
    page = browser.new_page()
    page.set_default_timeout(20_000)
    with LiveView(tmp_path) as view:
        page.goto(view.url)
        page.get_by_text("The run has not begun yet.").wait_for()
        write(first_epochs(1), tmp_path)
        page.get_by_role("heading", name="LeNet with and without batch normalization").wait_for()
    page.close()


def test_events_arrive_in_order_and_end(view):
    answer = get(view, f"/{view.token}/events")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.readline() == b": here\n"
    view.tell("progress", {"share": 0.5})
    view.tell("epoch", {})
    lines = [answer.readline().decode().strip() for _ in range(7)]
    assert lines == ["", "event: progress", 'data: {"share": 0.5}', "", "event: epoch", "data: {}", ""]


def test_leaving_ends_open_pages_and_frees_the_port(tmp_path):
    write(first_epochs(1), tmp_path)
    with LiveView(tmp_path) as view:
        answer = get(view, f"/{view.token}/events")
        answer.readline()
        rest: list[bytes] = []
        reader = threading.Thread(target=lambda: rest.append(answer.read()))
        reader.start()
    reader.join(20)
    assert b"event: over" in rest[0]
    with pytest.raises(ConnectionRefusedError):
        get(view, "/")


@pytest.mark.browser
def test_a_reader_can_hold_the_page_and_does_not_lose_the_place(browser: Browser, tmp_path):
    write(first_epochs(1), tmp_path)
    page = browser.new_page()
    page.set_default_timeout(20_000)
    shown = "epochs.length / 2"  # of two arms
    with LiveView(tmp_path) as view:
        page.goto(view.url)
        page.evaluate("window.reportDrawn")
        page.get_by_text("Loss as a table").press("Enter")
        pause = page.get_by_role("button", name="Pause updates")
        pause.press("Space")
        write(first_epochs(2), tmp_path)
        view.tell("epoch", {})
        where = {
            "arm": "batch",
            "seed": 0,
            "epoch": 3,
            "epochs": 3,
            "share": 0.5,
            "accuracy": 0.8,
            "loss": 0.5,
        }
        view.tell("progress", where)
        view.tell("over", {})  # events come in order: whoever hears of the end has heard of the epoch
        page.get_by_role("status").filter(has_text="Training has ended").wait_for()
        assert page.evaluate(shown) == 1
        with page.expect_navigation():
            pause.press("Space")
        page.evaluate("window.reportDrawn")
        assert page.evaluate(shown) == 2
        assert page.evaluate("document.activeElement.textContent") == "Pause updates"
        assert page.get_by_role("table", name="Loss by epoch").is_visible()
    page.close()


@pytest.mark.browser
def test_a_browser_follows_the_training(browser: Browser, tmp_path):
    write(first_epochs(1), tmp_path)
    context = browser.new_context()
    context.set_default_timeout(20_000)
    page = context.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    with LiveView(tmp_path) as view:
        page.goto(view.url)
        page.evaluate("window.reportDrawn")
        page.get_by_role("button", name="none").click()
        where = {"arm": "batch", "seed": 0, "epoch": 2, "epochs": 3, "share": 0.25, "accuracy": 0.8}
        view.tell("progress", {**where, "loss": 0.5})
        page.get_by_text("Training batch, seed 0, epoch 2 of 3: 25 %, loss 0.500, accuracy 0.800").wait_for()
        view.tell("progress", {**where, "loss": None})
        page.get_by_text("loss lost").wait_for()
        write(first_epochs(2), tmp_path)
        with page.expect_navigation():
            view.tell("epoch", {})
        page.evaluate("window.reportDrawn")
        assert page.evaluate("epochs.length") == 4  # two arms, two epochs
        assert page.get_by_role("button", name="none").get_attribute("aria-pressed") == "false"
    page.get_by_text("Training has ended").wait_for()
    context.close()
    assert complaints == []
