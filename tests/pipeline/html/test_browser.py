"""Pages in a real browser: they draw, search, sort and link, say no error, and ask nobody."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import printable
from tensorferry.converters.findings import Finding, Level
from tensorferry.converters.tensors import TensorDict
from tensorferry.pipeline.diff import Difference
from tensorferry.pipeline.html import diff_page, inspect_page, write_page
from tensorferry.pipeline.stats import Stats, stats_all

DESKTOP, PHONE, SMALL = (1280, 2000), (390, 844), (320, 640)
BUSY_SECONDS = 6  # 2 on an idle machine
WAIT_SECONDS = 20
# What is drawn of each kind of plot.
TILES, BARS, CELLS = "#treemap .slice path", "#strips .point path", "#heat .hm image"
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
Verdicts = tuple[TensorDict, TensorDict, list[Difference]]


@dataclass
class Watched:
    """A page that is open, with everything it said and asked for."""

    page: Any
    session: Any
    url: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the names in the rows that are drawn."""
        found: list[str] = self.page.eval_on_selector_all(
            "#rows [data-tensor] .name", "rows => rows.map((row) => row.title)"
        )
        return found

    def drawn(self, selector: str) -> int:
        """Return how many such elements take up space, once there is one."""
        self.page.locator(selector).first.wait_for(state="attached")
        found: int = self.page.eval_on_selector_all(
            selector,
            "each => each.map((one) => one.getBoundingClientRect())"
            ".filter((box) => box.width > 0.5 && box.height > 0.5).length",
        )
        return found

    def busy(self) -> float:
        """Return for how many seconds the page has kept a processor, however busy the others."""
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; the page's policy keeps its own waiting from working."""
        end = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert time.monotonic() < end
            self.page.wait_for_timeout(20)

    def reset(self) -> None:
        """Put everything back as it was when the page opened, but for plots and open layers."""
        if self.page.locator("#details").is_visible():
            self.page.get_by_label("Close").click()
        self.page.fill("#search", "")
        for select in self.page.locator("#selects select").all():
            select.select_option("")
        for box in self.page.locator("#flagged").all():
            box.uncheck()
        if not self.url.endswith("difference.html"):
            self.page.get_by_role("button", name="Tree").click()

    def check(self) -> None:
        """Fail if the page said anything, or asked for anything but itself."""
        assert self.said == []
        assert {url.partition("#")[0] for url in self.asked} == {self.url}

    def show(self, selector: str) -> None:
        """Scroll to a plot and wait until it is drawn."""
        self.page.locator(selector).scroll_into_view_if_needed()
        self.page.locator(f"{selector}[data-drawn]").wait_for()


pytestmark = pytest.mark.oracle
Visit = Callable[..., Watched]


def opened(browser: Any, path: Path, size: tuple[int, int] = DESKTOP) -> Watched:
    """Open a page in a window of its own."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
    context.set_default_timeout(WAIT_SECONDS * 1000)
    tab = context.new_page()
    session = context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    watched = Watched(tab, session, path.as_uri())
    tab.on("console", lambda message: watched.said.append(message.text))
    tab.on("pageerror", lambda error: watched.said.append(str(error)))
    tab.on("request", lambda request: watched.asked.append(request.url))
    tab.goto(watched.url)
    return watched


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Visit]:
    """Open pages; at the end they must have said no error and asked for nothing."""
    tabs: list[Watched] = []

    def visited(page: str, size: tuple[int, int] = DESKTOP) -> Watched:
        path = tmp_path / f"page {len(tabs)}.html"
        write_page(path, page)
        tabs.append(opened(browser, path, size))
        return tabs[-1]

    yield visited
    for each in tabs:
        each.page.context.close()
        each.check()


@pytest.fixture(scope="module")
def shared(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """Open a page once for many tests: what takes time is that the plots' library starts."""
    folder = tmp_path_factory.mktemp("shared")
    tabs: dict[str, Watched] = {}

    def visited(name: str, page: str) -> Watched:
        if name not in tabs:
            write_page(folder / f"{name}.html", page)
            tabs[name] = opened(browser, folder / f"{name}.html")
        tabs[name].reset()
        return tabs[name]

    return visited


@pytest.fixture
def model(shared: Visit, page: str) -> Iterator[Watched]:
    """Show the page of a sample."""
    seen = shared("model", page)
    yield seen
    seen.check()


@pytest.fixture
def large_model(
    shared: Visit, large: TensorDict, large_stats: dict[str, Stats]
) -> Iterator[Watched]:
    """Show the page of 10,000 tensors."""
    seen = shared("large", inspect_page("large", large, large_stats, []))
    yield seen
    seen.check()


@pytest.fixture
def difference(shared: Visit, verdicts: Verdicts) -> Iterator[Watched]:
    """Show the page of two models."""
    seen = shared("difference", diff_page("a.ckpt", "b.h5", *verdicts))
    yield seen
    seen.check()


@pytest.fixture(scope="module")
def page(samples: Path) -> str:
    """Return the page of a sample with values and flags."""
    with open_tensors(samples / "tf1_adam_ema") as tensors:
        findings = [
            Finding("value/nan", Level.ERROR, "3 values are NaN", "dense_1/kernel"),
            Finding("value/zero", Level.WARNING, "all values are zero", "dense/bias"),
            Finding("integrity/trailing", Level.NOTE, "12 bytes follow", path="model.data"),
        ]
        return inspect_page("sample", tensors, stats_all(tensors, 2), findings)


# Plots


def test_plots_draw(model: Watched) -> None:
    model.show("#treemap")
    assert model.drawn(TILES) > 20
    model.show("#strips")
    assert model.drawn(BARS) > 20
    assert "dense/kernel" in model.page.locator("#strips").inner_text()


def test_sizes_are_grouped_by_role_too(model: Watched) -> None:
    model.show("#treemap")
    assert "moving average" not in model.page.locator("#treemap").inner_text()
    model.page.get_by_role("button", name="By role").click()
    model.page.locator("#treemap", has_text="moving average").wait_for()


def test_a_tile_leads_to_its_tensor(model: Watched) -> None:
    model.show("#treemap")
    model.page.locator("#treemap .slice", has_text="moving_variance").last.click()
    assert model.page.locator("#details h2").inner_text() == "batch_normalization/moving_variance"


def test_strips_of_another_group_are_shown(model: Watched) -> None:
    model.show("#strips")
    model.page.select_option("#strip-group", label="optimizer slot m (6)")
    model.until(lambda: "moving_mean" not in model.page.locator("#strips").inner_text())
    assert "dense_1/kernel" in model.page.locator("#strips").inner_text()


def test_plots_wait_until_they_come_into_view(visit: Visit, page: str) -> None:
    seen = visit(page, size=PHONE)
    assert not seen.page.locator("#strips[data-drawn]").count()
    seen.show("#strips")


# The table


def test_search_filters_rows(model: Watched) -> None:
    assert len(model.names()) == 29
    model.page.fill("#search", "DENSE_1 kernel")
    slots = [f"dense_1/kernel/{slot}" for slot in ("Adam", "Adam_1", "ExponentialMovingAverage")]
    assert sorted(model.names()) == ["dense_1/kernel", *slots]
    assert model.page.locator("#found").inner_text() == "4 of 29 · 384 bytes"
    model.page.fill("#search", "no such tensor")
    assert model.page.locator("#rows").inner_text() == "Nothing matches."
    model.page.fill("#search", "")
    assert len(model.names()) == 29


def test_roles_dtypes_and_flags_filter_too(model: Watched) -> None:
    model.page.select_option("#pick-role", label="counter (1)")
    assert model.names() == ["global_step"]
    model.page.select_option("#pick-dtype", label="float32 (28)")
    assert model.names() == []
    model.page.select_option("#pick-role", "")
    model.page.check("#flagged")
    assert sorted(model.names()) == ["dense/bias", "dense_1/kernel"]


def test_columns_sort(model: Watched) -> None:
    model.page.get_by_role("button", name="List").click()
    own = model.names()
    heading = model.page.locator('[data-column="bytes"]')
    heading.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert model.names()[:1] == ["dense/kernel"]
    assert model.names() != own
    heading.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert model.names()[-1].startswith("dense/kernel")
    heading.click()
    assert (heading.get_attribute("aria-sort"), model.names()) == ("none", own)
    model.page.locator('[data-column="name"]').click()
    assert model.names() == sorted(own, key=lambda name: name.lower().replace("_", " "))
    for _ in range(2):
        model.page.locator('[data-column="name"]').click()
    assert model.names() == own


def test_layers_close_and_open(model: Watched) -> None:
    layer = model.page.locator(".row.layer", has_text="batch_normalization/")
    assert "10 tensors" in layer.inner_text()
    assert "320 bytes" in layer.inner_text()
    layer.click()
    assert len(model.names()) == 19
    layer.click()
    assert len(model.names()) == 29


# One tensor


def test_a_row_opens_with_its_histogram(model: Watched) -> None:
    model.page.locator("#rows [data-tensor]", has_text="moving_mean").click()
    details = model.page.locator("#details")
    assert details.locator("h2").inner_text() == "batch_normalization/moving_mean"
    assert model.drawn("#histogram .point path") > 3
    text = re.sub(r"\s+", " ", details.inner_text())
    assert f"Min {MINUS}106.9 Max 122.1" in text
    assert "Role state" in text
    details.get_by_label("log counts").check()
    assert model.drawn("#histogram .point path") > 3


def test_a_flag_leads_to_its_tensor(model: Watched) -> None:
    assert "1 error, 1 warning, 1 note" in model.page.locator("#flags").inner_text()
    model.page.fill("#search", "global_step")  # what is filtered out is shown all the same
    model.page.locator("#flag-list a", has_text="dense_1/kernel").click()
    details = model.page.locator("#details")
    assert details.locator("h2").inner_text() == "dense_1/kernel"
    assert "3 values are NaN" in details.inner_text()
    row, view = (model.page.locator(each).bounding_box() for each in (".row.picked", "#scroller"))
    assert view["y"] - 1 <= row["y"] <= view["y"] + view["height"] - row["height"] + 1


def test_an_address_can_name_a_tensor(model: Watched) -> None:
    model.page.goto(f"{model.url}#t3")
    heading = model.page.locator("#details h2")
    model.until(
        lambda: heading.text_content() == "batch_normalization/beta/ExponentialMovingAverage"
    )
    model.page.goto(f"{model.url}#t999")
    model.until(lambda: not model.page.locator("#details").is_visible())


def test_keys_move_and_close(model: Watched) -> None:
    model.page.locator("#rows [data-tensor]").first.click()
    first = model.page.locator("#details h2").inner_text()
    model.page.keyboard.press("ArrowDown")
    second = model.page.locator("#details h2").inner_text()
    assert (first, second) == tuple(model.names()[:2])
    model.page.keyboard.press("ArrowUp")
    assert model.page.locator("#details h2").inner_text() == first
    model.page.keyboard.press("Escape")
    assert not model.page.locator("#details").is_visible()
    assert "#" not in model.page.url


# Screens


@pytest.mark.parametrize("size", [PHONE, SMALL])
def test_a_phone_shows_all_of_it(
    visit: Visit, page: str, verdicts: Verdicts, size: tuple[int, int]
) -> None:
    for each in (page, diff_page("a" * 200, "b", *verdicts)):
        seen = visit(each, size=size)
        for plot in seen.page.locator("[data-plot]").all():
            plot.scroll_into_view_if_needed()
            seen.page.locator(f"#{plot.get_attribute('id')}[data-drawn]").wait_for()
        seen.page.locator("#rows [data-tensor]").first.click()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        box = seen.page.locator("#details").bounding_box()
        assert (box["x"], box["width"]) == (0, size[0])
        assert box["y"] + box["height"] == pytest.approx(size[1], abs=1)


def test_dark_is_dark(visit: Visit, page: str) -> None:
    seen = visit(page)
    seen.show("#treemap")
    colours = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light = [brightness(each) for each in seen.page.evaluate(colours)]
    header = "document.querySelector('#treemap .slice path').style.fill"
    before = seen.page.evaluate(header)
    seen.page.emulate_media(color_scheme="dark")
    seen.until(lambda: seen.page.evaluate(header) != before)
    dark = [brightness(each) for each in seen.page.evaluate(colours)]
    assert light[0] > 230 > 100 > light[1]
    assert dark[0] < 40 < 200 < dark[1]


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


# Ten thousand tensors


def test_ten_thousand_tensors_are_fast(large_model: Watched) -> None:
    large_model.page.fill("#search", "layer_1999 gamma")
    assert large_model.names() == ["model/encoder/layer_1999/norm/gamma"]
    large_model.show("#treemap")
    assert large_model.drawn(TILES) > 100
    assert large_model.busy() < BUSY_SECONDS


def test_only_rows_in_view_are_in_the_document(large_model: Watched) -> None:
    large_model.page.get_by_role("button", name="List").click()
    assert len(large_model.names()) < 100
    large_model.page.evaluate("find => document.getElementById(find).scrollTop = 1e9", "scroller")
    large_model.page.locator('[data-tensor="9999"]').wait_for()
    assert len(large_model.names()) < 100


# Names that somebody else chose


def test_hostile_names_are_shown_and_do_nothing(visit: Visit, hostile: TensorDict) -> None:
    stats = stats_all(hostile, 1)
    findings = [Finding(name, Level.ERROR, name, name) for name in hostile]
    seen = visit(inspect_page("<b>model</b>", hostile, stats, findings))
    for plot in ("#treemap", "#strips"):
        seen.show(plot)
    seen.page.get_by_role("button", name="List").click()
    assert seen.names() == [printable(name) for name in hostile]
    for number, name in enumerate(hostile):
        seen.page.locator(f'[data-tensor="{number}"]').click()
        assert seen.page.locator("#details h2").text_content() == printable(name)
    assert seen.page.locator("main img, main b b, main a[href^=javascript]").count() == 0
    assert "<img src=x onerror=" in seen.page.locator("#strips").inner_text()
    assert seen.page.evaluate("window.hit === undefined")


def test_the_policy_stops_a_request(visit: Visit, page: str) -> None:
    seen = visit(page)
    stopped = seen.page.evaluate(
        """() => new Promise((done) => {
            const heard = (event) => done(event.effectiveDirective);
            document.addEventListener("securitypolicyviolation", heard);
            fetch("https://example.invalid/").catch(() => 0);
        })"""
    )
    assert stopped == "connect-src"
    said = [seen.said.pop() for _ in range(len(seen.said))]  # these are what was provoked
    assert all("example.invalid" in each for each in said)


# Two models


def test_a_difference_draws(difference: Watched) -> None:
    difference.show("#heat")
    assert difference.drawn(CELLS) == 1
    # Other shape, other dtype, missing, added, and infinite; in the layer and as a kernel.
    assert difference.drawn("#heat .scatterlayer .point") == 10
    difference.show("#treemap")
    assert difference.drawn(TILES) > 10


def test_verdicts_filter_and_open(difference: Watched) -> None:
    difference.page.get_by_role("button", name="renamed", exact=True).click()
    assert difference.names() == ["old/kernel"]
    difference.page.locator("#rows [data-tensor]").click()
    assert "new/kernel" in difference.page.locator("#details").inner_text()
    difference.page.keyboard.press("Escape")
    difference.page.select_option("#pick-verdict", "")
    difference.page.fill("#search", "new/")  # by the name in B
    assert difference.names() == ["old/kernel"]
    difference.page.fill("#search", "")
    difference.page.locator('[data-column="relative"]').click()
    assert difference.names()[:3] == ["nan/kernel", "block_2/kernel", "block_2/bias"]


def test_every_verdict_has_its_details(difference: Watched, verdicts: Verdicts) -> None:
    shown = {}
    for number, each in enumerate(verdicts[2]):
        difference.page.locator(f'[data-tensor="{number}"]').click()
        shown[each.name] = re.sub(r"\s+", " ", difference.page.locator("#details").inner_text())
    assert f"Shape 2{TIMES}3 → 3{TIMES}2" in shown["turned/kernel"]
    assert "Axes in B 1, 0" in shown["turned/kernel"]
    assert "Dtype float32 → float16" in shown["cast/kernel"]
    assert "float32 to float16" in shown["cast/kernel"]
    assert "Relative L2 ∞ Max abs NaN" in shown["nan/kernel"]
    assert (
        "Relative L2 0.1250 Max abs 0.5000 Cosine 0.9900 Elements 75.0 %" in shown["block_2/kernel"]
    )
    assert "Dtype int8" in shown["extra/kernel"]


def test_models_that_are_the_same_say_so(visit: Visit, verdicts: Verdicts) -> None:
    first, _, differences = verdicts
    seen = visit(diff_page("a", "a", first.select(list(first)[:4]), first, differences[:4]))
    assert "All tensors are the same." in seen.page.locator("header.top").inner_text()
    assert not seen.page.locator("#heat").count()
