"""The pages in a real browser: silent, alone, as wide as a phone, and dark where the reader wants it."""

import pytest

from pref_dist.report import write_comparison, write_report
from tests.chromium import Chromium, find_chromium, start_chromium
from tests.needs import check_need
from tests.report.full_run import SCRIPT, write_full_run

PHONE = 390  # pixels


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    check_need("chromium", "" if find_chromium() else "no Chromium here; launch/test.sh installs Debian's where it may")
    with start_chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of one run, and that of two runs side by side."""
    folder = tmp_path_factory.mktemp("runs")
    run, other = write_full_run(folder / "run", noise=0.5), write_full_run(folder / "other", noise=2.0)
    return {"one run": write_report(run), "two runs": write_comparison((run, other), folder / "both")}


def open_details(browser: Chromium) -> None:
    browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")


@pytest.mark.parametrize("name", ["one run", "two runs"])
def test_a_page_says_nothing_to_the_console_and_asks_the_network_for_nothing(browser, pages, name):
    browser.open(pages[name])
    open_details(browser)
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    complaints = (
        "Runtime.consoleAPICalled",
        "Runtime.exceptionThrown",
        "Log.entryAdded",
        "Page.javascriptDialogOpening",
    )
    assert not [event for kind in complaints for event in browser.heard(kind)]
    asked = [event["request"]["url"] for event in browser.heard("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].resolve().as_uri()]


def test_a_script_in_a_prompt_is_text(browser, pages):
    browser.open(pages["one run"])
    assert browser.evaluate("document.scripts.length") == 0
    shown = browser.evaluate("[...document.querySelectorAll('#worst-rows pre')].map(one => one.textContent)")
    assert sum(SCRIPT in text for text in shown) == 6


@pytest.mark.parametrize("name", ["one run", "two runs"])
def test_a_phone_does_not_scroll_sideways(browser, pages, name):
    browser.open(pages[name], width=PHONE, height=844)
    open_details(browser)
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert browser.evaluate("innerWidth") == PHONE


@pytest.mark.parametrize("name", ["one run", "two runs"])
def test_a_reader_who_wants_it_dark_gets_it_dark(browser, pages, name):
    def measure() -> list[float]:
        colors = "[document.body, document.querySelector('h1')].map(one => getComputedStyle(one))"
        found = browser.evaluate(f"{colors}.map((style, n) => n ? style.color : style.backgroundColor)")
        return [sum(map(float, color[4:-1].split(","))) for color in found]

    browser.open(pages[name])
    paper, ink = measure()
    assert paper > 3 * 230 > 3 * 80 > ink
    browser.open(pages[name], dark=True)
    paper, ink = measure()
    assert ink > 3 * 200 > 3 * 60 > paper
