"""The benchmark's report in a real browser: viewer, charts and table, by mouse, keys and touch."""

import io

import pytest
from chromium import Page, needs_chromium
from PIL import Image
from result_cases import result

from kspacesr_rt.bench.report.html_report import as_html

pytestmark = needs_chromium

ENTER = {"key": "Enter", "number": 13, "text": "\r"}
CLIP = "getComputedStyle(document.getElementById('v-over')).clipPath"
SHIFT = "document.querySelector('.sheet').style.transform"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(as_html(result()))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser, file):
    """Load the report on a desk; nothing may go wrong or out while a test runs."""
    yield from opened(browser, file)


@pytest.fixture
def phone(browser, file):
    """Load it on a phone 360 px wide, with touch."""
    yield from opened(browser, file, width=360, height=740, mobile=True)


def opened(browser, file, *, width=1280, height=900, mobile=False):
    browser.size(width, height, mobile=mobile)
    browser.scheme("light")
    browser.problems.clear()
    browser.requests.clear()
    browser.open(file)
    browser.wait("document.querySelector('.viewer').dataset.ready === 'yes'")
    yield browser
    assert browser.problems == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    assert [url for url in browser.requests if url.startswith("file")] == [file.as_uri()]


def stage(page):
    """Scroll to the images and return their left, top, width and height, px."""
    page.run("document.getElementById('v-stage').scrollIntoView({block: 'center'})")
    box = "document.getElementById('v-stage').getBoundingClientRect()"
    return [page.run(f"{box}.{name}") for name in ("left", "top", "width", "height")]


def shown(page, share):
    """Return the grey that a reader sees at a share of the stage's width, below its middle."""
    left, top, width, height = stage(page)
    picture = Image.open(io.BytesIO(page.picture())).convert("L")
    ratio = page.run("devicePixelRatio")
    return picture.getpixel(
        (round((left + share * width) * ratio), round((top + 0.8 * height) * ratio))
    )


def scale(page):
    return float(page.run(SHIFT).split("scale(")[1].rstrip(")"))


def test_the_divider_follows_the_keyboard(page):
    """Left of it zero-fill (40), right of it SR (90)."""
    assert (shown(page, 0.25), shown(page, 0.75)) == (40, 90)
    page.run("document.getElementById('v-split').focus()")
    before = page.run(CLIP)
    for _ in range(40):
        page.key("ArrowLeft", number=37)
    assert page.run(CLIP) != before
    assert (shown(page, 0.05), shown(page, 0.25)) == (40, 90)


def test_the_divider_follows_the_pointer(page):
    left, top, width, height = stage(page)
    page.drag((left + width / 2, top + height / 2), (left + 0.9 * width, top + height / 2))
    assert (shown(page, 0.75), shown(page, 0.95)) == (40, 90)
    assert page.run("document.getElementById('v-split').value") == "90"


def test_differences_are_one_key_away_and_say_their_scale(page):
    page.run("document.getElementById('v-errors').focus()")
    page.key(**ENTER)
    assert (shown(page, 0.25), shown(page, 0.75)) == (200, 60)
    assert "white 5.00 % of the series' maximum" in page.run(
        "document.getElementById('v-readout').textContent"
    )
    page.key(**ENTER)
    assert (shown(page, 0.25), shown(page, 0.75)) == (40, 90)


def test_any_two_layers_can_be_compared(page):
    page.run("document.getElementById('v-right').focus()")
    page.key("ArrowDown", number=40)
    page.wait("document.getElementById('v-right').value === 'hr'")
    assert (shown(page, 0.25), shown(page, 0.75)) == (40, 120)
    assert page.run("document.getElementById('v-name-right').textContent") == "HR"


def test_zoom_by_keys_buttons_and_wheel(page):
    left, top, width, height = stage(page)
    middle = (left + width / 2, top + height / 2)
    page.run("document.getElementById('v-stage').focus()")
    page.key("+", text="+")
    assert scale(page) == pytest.approx(1.5)
    page.key("ArrowRight", number=39)
    moved = page.run(SHIFT)
    page.key("-", text="-")
    assert (scale(page), page.run(SHIFT) != moved) == (1.0, True)
    page.mouse("wheel", *middle, deltaX=0, deltaY=-120)
    page.wait(f"!{SHIFT}.endsWith('scale(1)')")
    assert scale(page) > 1.2
    page.key("0", text="0")
    assert scale(page) == 1.0
    page.run("document.getElementById('v-in').focus()")
    page.key(**ENTER)
    assert page.run("document.getElementById('v-zoom').textContent") == "150 %"


def test_the_wheel_scrolls_the_page_until_the_image_is_clicked(page):
    """Who reads on must not be caught by a picture on the way."""
    left, top, width, height = stage(page)
    before = page.run("scrollY")
    page.mouse("wheel", left + width / 2, top + height / 2, deltaX=0, deltaY=150)
    page.wait(f"scrollY !== {before}")
    assert scale(page) == 1.0


def test_a_zoomed_image_moves_under_the_pointer_and_stays_in_its_frame(page):
    left, top, width, height = stage(page)
    page.run("document.getElementById('v-stage').focus()")
    for _ in range(2):
        page.key("+", text="+")
    before, clip = page.run(SHIFT), page.run(CLIP)
    page.drag((left + 0.2 * width, top + 60), (left + 0.2 * width + 50, top + 90))
    assert page.run(SHIFT) != before
    assert page.run(CLIP) == clip
    page.drag((left + 0.2 * width, top + 60), (left + 3 * width, top + 3 * height))
    assert page.run(SHIFT).startswith("translate(0px, 0px)")


def test_window_and_level_by_slider_and_right_button(page):
    """A window of 50 % around 25 % doubles the contrast: 40 becomes 80, 90 becomes 180."""
    page.run(
        "for (const [name, value] of [['v-window', 50], ['v-level', 25]]) {"
        " const one = document.getElementById(name); one.value = value;"
        " one.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    assert (shown(page, 0.25), shown(page, 0.75)) == (80, 180)
    left, top, _, _ = stage(page)
    clip = page.run(CLIP)
    page.drag((left + 100, top + 100), (left + 180, top + 100), button="right")
    assert page.run("document.getElementById('v-window').value") == "90"
    assert page.run(CLIP) == clip
    page.run("document.getElementById('v-window').focus()")
    page.key("ArrowLeft", number=37)
    assert page.run("document.getElementById('v-readout').textContent").startswith(
        "64 × 48; window 89 %, level 25 %"
    )


def test_slices_are_chosen_by_keyboard(page):
    page.run("document.getElementById('v-slice').focus()")
    page.key("ArrowDown", number=40)
    page.wait("document.getElementById('v-slice').value === '1'")
    assert page.run("document.getElementById('v-slice').selectedOptions[0].text").endswith(
        "slice 9 of 20"
    )


def test_the_table_sorts_by_keyboard_with_empty_cells_last(page):
    column = "[...document.querySelectorAll('#rows tbody tr')].map(row => row.cells[1].textContent)"
    head = "[...document.querySelectorAll('#rows th button')].find(b => b.textContent === 'p50 ms')"
    page.run(f"{head}.focus()")
    page.key(**ENTER)
    slowest = ["torch-eager", "ort-cpu", "openvino", "exporter-graph", "zero-fill", "openvino"]
    assert page.run(column) == slowest
    assert page.run(f"{head}.parentElement.getAttribute('aria-sort')") == "descending"
    page.key(**ENTER)
    assert page.run(column) == [*slowest[4::-1], slowest[5]]
    assert page.run("document.activeElement.textContent") == "p50 ms"
    page.run("document.querySelectorAll('#rows th button')[1].focus()")
    page.key(**ENTER)
    assert page.run(column) == sorted(slowest)
    assert page.run("document.querySelectorAll('#rows [aria-sort=none]').length") == 22


def test_marks_of_a_chart_can_be_reached_and_read(page):
    page.run("document.querySelector('#quality .chart.wide .point').focus()")
    told = page.run("document.querySelector('#quality .readout').textContent")
    assert told == "x2-fast, zero-fill fp32 batch 1: 0.1 ms a slice, SSIM against HR 0.93"
    page.key("Tab", number=9)
    assert page.run("document.querySelector('#quality .readout').textContent") != told


def test_everything_is_reached_by_tab_and_shows_where_it_is(page):
    """No trap on the way, and an outline on what has the focus."""
    seen, focused = [], "document.activeElement"
    for _ in range(90):
        page.key("Tab", number=9)
        seen.append(page.run(f"{focused}.id || {focused}.getAttribute('class')"))
        if page.run(f"{focused} === document.body"):
            break
    wanted = {"theme", "v-stage", "v-slice", "v-left", "v-right", "v-split", "v-window", "v-level"}
    assert wanted | {"v-errors", "v-in", "v-out", "v-reset", "scroll"} <= set(seen)
    page.run("document.getElementById('v-stage').focus()")
    page.key("Shift", number=16)
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_theme_follows_the_system_and_the_button(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.scheme("dark")
    dark = page.run(colour)
    assert dark != light
    page.wait("document.getElementById('theme').textContent === 'light'")
    page.run("document.getElementById('theme').focus()")
    page.key(**ENTER)
    assert page.run(colour) == light
    page.key(**ENTER)
    assert page.run(colour) == dark


def test_a_phone_needs_no_sideways_scrolling(phone):
    """The table scrolls in a box of its own."""
    assert phone.run("document.scrollingElement.scrollWidth") <= 360
    assert phone.run(
        "(b => b.scrollWidth > b.clientWidth)(document.querySelector('#rows .scroll'))"
    )
    assert phone.run("document.querySelectorAll('.chart.narrow')[0].clientWidth") > 300
    small = (
        "[...document.querySelectorAll('.chart.narrow text')].every("
        "t => t.getBoundingClientRect().height > 9)"
    )
    assert phone.run(small)


def test_fingers_move_the_divider_and_pinch(phone):
    left, top, width, height = stage(phone)
    y = top + height / 2
    phone.touch("Start", (left + width / 2, y))
    for share in (0.4, 0.3, 0.2):
        phone.touch("Move", (left + share * width, y))
    phone.touch("End")
    assert (shown(phone, 0.1), shown(phone, 0.35)) == (40, 90)
    phone.touch("Start", (left + 100, y), (left + 160, y))
    phone.touch("Move", (left + 60, y), (left + 200, y))
    phone.touch("End")
    assert scale(phone) == pytest.approx(140 / 60, rel=0.1)


def test_without_a_script_the_pictures_are_there(browser, file, tmp_path):
    """Mail programs and cautious browsers run none."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(file)
        assert browser.run("document.querySelectorAll('.strip img').length") == 10
        assert (
            browser.run("document.querySelector('.strip img').getBoundingClientRect().width") > 90
        )
        assert browser.run("document.querySelector('.viewer').hidden")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
