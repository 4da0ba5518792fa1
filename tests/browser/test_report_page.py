"""report.html in a browser: it is quiet, complete, accessible, quick, and fits narrow, wide, dark and paper."""

from __future__ import annotations

import time

import pytest

from tests.builders import make_study
from tests.report_sweeps import EVIL, full_page, make_trials, search_page

pytestmark = pytest.mark.browser

PLOTS_PER_DATASET = 19
"""Finalists 2, search 5, effects 10 (importance, path, 5 profiles, 2 contours, rungs), labels 2."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(full_page(folder / "mine", names=("trec", EVIL))[1], encoding="utf-8")
    return path


def draw_all(page):
    page.evaluate("plots.forEach(draw)")


def test_a_page_is_quiet_and_asks_for_nothing(open_page, report):
    page = open_page(report)
    draw_all(page)
    assert page.messages == []
    assert page.requests == [report.as_uri()]


def test_all_plots_are_drawn(open_page, report):
    page = open_page(report)
    draw_all(page)
    drawn = page.locator(".plot .main-svg:first-child").count()
    assert drawn == page.locator(".plot").count() == 2 * PLOTS_PER_DATASET + 1


def test_plots_are_drawn_when_they_come_near_the_window_only(open_page, report):
    page = open_page(report)
    assert page.locator("#dataset-2-history .main-svg").count() == 0
    page.locator("#dataset-2-history").scroll_into_view_if_needed()
    page.wait_for_selector("#dataset-2-history .main-svg")


def test_a_name_is_text_wherever_it_is_shown(open_page, report):
    page = open_page(report)
    draw_all(page)
    for details in page.locator("#dataset-2 details.data").all():
        details.evaluate("element => { element.open = true; }")
    page.wait_for_selector("#dataset-2 details.data table")
    assert page.locator("img").count() == 0
    assert page.locator("#dataset-2 h2").inner_text() == EVIL
    assert EVIL in page.locator("#dataset-2-confusion").text_content()
    assert EVIL in page.locator("figure:has(#dataset-2-confusion) table").text_content()


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1600, "dark")])
def test_axe_finds_nothing_but_trifles(open_page, report, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(report, scheme=scheme, width=width)
    draw_all(page)
    page.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    page.wait_for_selector("#dataset-2 details.data table")
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (rule["id"], rule["nodes"][0]["html"])
        for rule in found
        if rule["impact"] in {"serious", "critical", "moderate"}
    ]
    assert serious == []


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_never_scrolls_sideways(open_page, report, width):
    page = open_page(report, width=width)
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_theme_follows_the_system_until_it_is_chosen(open_page, report):
    page = open_page(report, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name="Light theme").click()
    light = page.evaluate(background)
    assert light != dark
    page.reload()
    page.wait_for_selector("[data-ready]")
    assert page.evaluate(background) == light


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_a_configuration_is_copied_without_a_network(open_page, report, has_clipboard):
    # A clipboard of the browser's own would need a permission and a display.
    fake = "{ writeText: async (text) => { window.copied = text; } }" if has_clipboard else "undefined"
    init = f"""
        Object.defineProperty(navigator, "clipboard", {{ value: {fake} }});
        document.execCommand = () => {{ window.copied = getSelection().toString(); return true; }};
    """
    page = open_page(report, init=init)
    page.get_by_role("button", name="Copy: Train it again").first.click()
    page.wait_for_function("window.copied !== undefined")
    assert page.evaluate("window.copied") == "sweeper reproduce mine/one-minilm-lora/2000000"
    assert page.locator("#announcement").inner_text() == "Copied"


def test_the_keyboard_reaches_the_results_first(open_page, report):
    page = open_page(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_every_plot_has_a_table_of_its_data(open_page, report):
    page = open_page(report)
    page.evaluate("document.querySelectorAll('details.data').forEach((element) => { element.open = true; })")
    page.wait_for_function("[...document.querySelectorAll('details.data .scroll')].every((e) => e.querySelector('td'))")
    assert "0.900 (0.886 to 0.914)" in page.locator("#dataset-1-finalists-text").text_content()
    assert "0.8860 to 0.9140" in page.locator("figure:has(#dataset-1-finalists) table").text_content()


def test_paper_gets_every_plot_in_light_colours(open_page, report, tmp_path):
    page = open_page(report, scheme="dark")
    content = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert content.startswith(b"%PDF")
    assert page.evaluate("plots.every((plot) => plot.dataset.drawn)")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("button", name="theme").is_visible()


def test_a_thousand_trials_are_usable_within_two_seconds(open_page, tmp_path):
    path = tmp_path / "report.html"
    study = make_study()
    path.write_text(search_page(tmp_path / "mine", make_trials(1000, study=study)), encoding="utf-8")
    busy, elapsed = [], []
    for _ in range(3):
        began = time.perf_counter()
        page = open_page(path)
        page.get_by_role("link", name="trec").first.click()
        # Plots are drawn when they come into view.
        page.locator("#dataset-1-curves").scroll_into_view_if_needed()
        page.wait_for_selector("#dataset-1-curves .main-svg")
        elapsed.append(time.perf_counter() - began)
        busy.append(page.busy_s())
        assert page.messages == []
    # On a machine that does nothing else, the page is usable once its main thread has done its work. The elapsed time
    # also has what other processes take; its limit finds a page that waits for something.
    assert min(busy) < 2.0
    assert min(elapsed) < 20.0
