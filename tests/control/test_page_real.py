"""The page in a real browser, with real clicks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.control.browser import Browser, chromium
from tests.control.conftest import served

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

TEXT = "document.getElementById('{}').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser of our own."""
    program = chromium()
    if program is None:
        pytest.skip("chromium is not installed")
    with Browser(program, tmp_path_factory.mktemp("chromium")) as found:
        yield found


def _post(url: str) -> None:
    assert httpx.post(url, timeout=10).status_code == 200


def _said(browser: Browser, name: str) -> str:
    text: str = browser.ask(TEXT.format(name))
    return text


def test_it_shows_what_happens(browser: Browser, base: str, tmp_path: Path) -> None:
    """Memory, holders and agents arrive by themselves; no error in the console; nothing wider than the screen."""
    _post(f"{base}/agents/seen?mb=40")
    browser.see(width=1280)
    browser.open(f"{base}/memguard")
    browser.until(f"{TEXT.format('level')} === 'OK'")
    browser.until("document.getElementById('agents').textContent.includes('seen')")
    assert "GiB" in _said(browser, "used-of")
    assert "pool" in _said(browser, "holders")
    assert browser.ask("document.querySelectorAll('#memory-chart canvas').length") == 1
    shots = Path(os.environ.get("MEMGUARD_SHOTS", tmp_path))
    for width in (1280, 390):
        for dark in (False, True):
            browser.see(width=width, dark=dark)
            browser.until(f"document.documentElement.scrollWidth <= {width}")
            browser.until(f"document.querySelector('#memory-chart .uplot').getBoundingClientRect().width <= {width}")
            browser.picture(shots / f"page-{width}-{'dark' if dark else 'light'}.png")
    browser.see(width=1280)
    assert browser.errors == []


def test_it_acts(browser: Browser, base: str) -> None:
    """A click collects garbage, says what came back, and the audit shows it; the dangerous one asks again."""
    browser.open(f"{base}/memguard")
    browser.until("!document.querySelector('[data-act=\"system/gc\"]').disabled && document.readyState === 'complete'")
    browser.until(f"{TEXT.format('level')} === 'OK'")
    browser.click('[data-act="system/gc"]')
    browser.until(f"{TEXT.format('act-state')}.includes('came back')")
    browser.until(f"{TEXT.format('done')}.includes('collected garbage')")
    _post(f"{base}/fill")
    browser.click('[data-act="clear"]')
    browser.until("document.querySelector('[data-act=\"clear\"]').textContent.startsWith('Really')")
    assert httpx.get(f"{base}/cached", timeout=10).json()["lasting"] == 1000, "one click does nothing yet"
    browser.click('[data-act="clear"]')
    browser.until(f"{TEXT.format('act-state')}.includes('entries went')")


def test_it_reports(browser: Browser, base: str) -> None:
    """The button of the leak verdict examines for some seconds and shows the report."""
    browser.open(f"{base}/memguard")
    browser.until(f"{TEXT.format('level')} === 'OK'")
    browser.click("#report")
    browser.until("!document.getElementById('report-text').hidden")
    assert len(_said(browser, "report-text")) > 100
    assert browser.ask("document.getElementById('report-link').href.startsWith('blob:')")


def test_a_keyboard_is_enough(browser: Browser, base: str) -> None:
    """Everything that can be clicked is reached with the tabulator, is named, and shows where it is."""
    browser.open(f"{base}/memguard")
    browser.until(f"{TEXT.format('level')} === 'OK'")
    browser.ask("document.body.focus()")
    reached = set()
    for _ in range(40):
        browser.press("Tab")
        reached.add(browser.ask("(document.activeElement.textContent || document.activeElement.id).trim()"))
    assert {"Collect garbage", "Examine for 5 s and report", "1 h", "Use", "To the content"} <= reached
    unnamed = browser.ask(
        "[...document.querySelectorAll('button, input, [role=img], [role=region]')].filter(e => !(e.textContent.trim() "
        "|| e.getAttribute('aria-label') || (e.labels && e.labels.length))).length"
    )
    assert unnamed == 0


def test_a_token_is_asked_for(browser: Browser) -> None:
    """Without leave nothing can be clicked; with the wrong token it says so, with the right one it acts."""
    with served("tests.control.secret:app", gently=False) as address:
        browser.open(f"{address}/memguard")
        browser.until(f"{TEXT.format('level')} === 'OK'")
        browser.click('[data-act="system/gc"]')
        browser.until(f"{TEXT.format('act-state')}.includes('needs the token')")
        browser.click("#token")
        browser.write("wrong")
        browser.press("Enter")
        browser.until(f"{TEXT.format('notice')}.includes('not the token')")
        browser.click("#token")
        browser.write("open-sesame")
        browser.press("Enter")
        browser.until(f"{TEXT.format('level')} === 'OK'")
        browser.click('[data-act="system/gc"]')
        browser.until(f"{TEXT.format('act-state')}.includes('came back')")


def test_it_comes_back(browser: Browser) -> None:
    """When the server goes and comes again, the page says so and goes on by itself."""
    with served("tests.control.secret:app", gently=False) as address:
        browser.open(f"{address}/memguard")
        browser.ask("sessionStorage.clear()")
        browser.until(f"{TEXT.format('level')} === 'OK'")
    browser.until(f"{TEXT.format('level')} === 'no connection'")
    assert "trying again" in _said(browser, "link")
    with served("tests.control.secret:app", gently=False, port=int(address.rsplit(":", 1)[1])):
        browser.until(f"{TEXT.format('level')} === 'OK'", 40)
