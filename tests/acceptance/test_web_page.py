"""The page of `consumer web` as a browser shows it: Debian's Chromium, driven by Playwright."""

import re
import shutil
import statistics
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.acceptance.test_impact import fleet  # noqa: F401 # a fixture
from tests.acceptance.test_web import reader  # noqa: F401 # a fixture
from tests.database import Database
from tests.processes import PATIENCE_SECONDS, Daemon
from tests.site import Site

CHROMIUM = shutil.which("chromium")
PATIENCE = 1000 * PATIENCE_SECONDS
IN_TIME = """
SELECT count(*) FROM ops.v_cabinet_identity_recovery_impact_14d
WHERE impact_bucket = 'recovered_within_14d_but_no_claim'
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium"),
]


@pytest.fixture
def site(fleet: Database, reader: str) -> Iterator[Site]:  # noqa: F811
    with Site(reader) as found:
        yield found.wait_until_read()


@pytest.fixture
def browser(site: Site) -> Iterator[Browser]:
    """Started after the fleet was made: in this thread, Playwright leaves no other event loop beside its own."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    yield from opened(browser, site, locale="en-GB")


def opened(browser: Browser, site: Site, **options: object) -> Iterator[Page]:
    """The page; whatever the browser complains of, the policy of its contents included, fails the test."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(site.address)
    yield page
    context.close()
    assert [one for one in complaints if "ERR_" not in one] == []  # a server that is gone is no defect of the page


def test_the_figures_are_the_database_s(page: Page, fleet: Database) -> None:  # noqa: F811
    rows = fleet.run("SELECT impact_bucket, count(*) FROM ops.v_cabinet_identity_recovery_impact_14d GROUP BY 1")
    buckets = {row["impact_bucket"]: row["count"] for row in rows}
    recovered = fleet.value("SELECT count(*) FROM ops.cabinet_lead_recovery_audit")

    for bucket, leads in buckets.items():
        expect(page.locator(f"#funnel tr[data-bucket={bucket}] td").first).to_have_text(str(leads))
    expect(page.locator("#funnel tbody tr")).to_have_count(7)
    expect(page.locator("#latest tbody tr")).to_have_count(recovered)
    page.locator("summary").click()
    today = page.locator("#recoveries-table tbody tr").first.locator("td")
    assert int(today.nth(0).inner_text()) + int(today.nth(1).inner_text()) == recovered


def test_matches_are_seen_within_two_seconds_in_the_list_and_in_the_counts(page: Page, fleet: Database) -> None:  # noqa: F811
    """Each is seen; the seconds are those of the middle one, for Chromium shares this machine with other tests."""
    in_time = page.locator("#funnel tr[data-bucket=recovered_within_14d_but_no_claim] td").first
    page.locator("summary").click()
    with Daemon(fleet.url) as daemon:
        daemon.wait_until_ready()
        daemon.wait_for("sweep.finished")
        before = fleet.value(IN_TIME)
        expect(in_time).to_have_text(str(before), timeout=PATIENCE)  # what that sweep did is shown
        listed, counted = [], []
        for number in range(1, 6):
            yesterday = datetime.now() - timedelta(days=1)
            fleet.lead(f"seen-{number}", created_at=yesterday, matched_to=fleet.person())
            matched = time.monotonic()
            expect(page.locator("#latest tbody th").first).to_have_text(f"seen-{number}", timeout=PATIENCE)
            listed.append(time.monotonic() - matched)
            expect(in_time).to_have_text(str(before + number), timeout=PATIENCE)
            counted.append(time.monotonic() - matched)
    assert statistics.median(listed) < 2
    assert statistics.median(counted) < 2
    expect(page.locator("#recoveries-table")).to_have_attribute("open", "")  # it stays as the reader left it


def test_a_lead_is_found_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_label("Find a lead").fill("in-time")
    page.keyboard.press("Enter")
    expect(page.locator("h2")).to_have_text("Lead in-time")
    expect(page.locator("#verdict")).to_contain_text("Link and origin stand")
    expect(page.locator("#story")).to_contain_text("Recovered in time, no claim yet")


def test_it_speaks_the_browser_s_language(browser: Browser, site: Site) -> None:
    for page in opened(browser, site, locale="es-PE"):
        expect(page.locator("h1")).to_have_text("Recuperación de cabinet")
        expect(page.locator("html")).to_have_attribute("lang", "es")
        expect(page.locator("#funnel")).to_contain_text("Recuperado tarde")
        page.wait_for_timeout(1000)  # what the stream sends is in the same language
        expect(page.locator("#funnel")).to_contain_text("Recuperado tarde")


@pytest.mark.parametrize("locale", ["en-GB", "es-PE"])
def test_it_fits_a_phone_and_the_dark(browser: Browser, site: Site, locale: str) -> None:
    for page in opened(browser, site, viewport={"width": 375, "height": 740}, color_scheme="dark", locale=locale):
        page.locator("summary").click()
        too_wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
        assert page.evaluate(too_wide) == 0
        for path in ("", "lead?id=in-time"):
            page.goto(site.address + path)
            assert page.evaluate("document.documentElement.scrollWidth") == 375
            colours = page.evaluate(
                "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
            )
            ink, ground = (_luminance(colour) for colour in colours)
            assert ground < 0.05
            assert (ink + 0.05) / (ground + 0.05) > 7  # WCAG's contrast, the stricter of its two


def _luminance(colour: str) -> float:
    """WCAG's relative luminance of a CSS rgb()."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_says_when_its_server_is_gone_and_goes_on_by_itself(page: Page, site: Site) -> None:
    cut = page.locator("#cut")
    expect(cut).to_be_hidden()
    site.stop()
    expect(cut).to_be_visible()
    expect(cut).to_contain_text("is lost")
