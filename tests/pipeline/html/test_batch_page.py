"""The page of a batch: what is in it, and what it does in a real browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorferry.pipeline.batch.history import Entry, History, history_of, sums
from tensorferry.pipeline.html import batch_page, write_page

MAX_BYTES = 8_000_000
HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=window.hit=2>\u202e\x1b[31m"
START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
BOTH = "npz → safetensors"


def entry(number: int, **words: Any) -> Entry:
    name = f"team{number % 7}/run{number:06}/model"
    usual = {
        "state": "done", "formats": BOTH, "before": 1000 + number, "after": 900 + number,
        "seconds": 0.01 * (1 + number % 50), "attempts": 1, "ended": 1.7e9 + number / 100,
    }  # fmt: skip
    return Entry(f"{name}.safetensors", f"zoo/{name}.npz", **{**usual, **words})


def failed(number: int, code: int, error: str) -> Entry:
    wrong = {"state": "failed", "formats": "", "after": 0, "exit_code": code, "error": error}
    return entry(number, **wrong, hint="copy it again")


@pytest.fixture(scope="module")
def history() -> History:
    entries = [
        *(entry(number) for number in range(40)),
        entry(40, formats="keras-h5 → safetensors", attempts=3),
        failed(41, 4, "zoo/a.npz: tensor `x`: checksum, expected 0x1, got 0x2"),
        failed(42, 4, "zoo/b.npz: is torn"),
        failed(43, 70, "zoo/c.npz: its worker was killed"),
        entry(44, state="unfinished", formats="", after=0, ended=None),
    ]
    return History(entries, {"zoo/readme.md": "no format that is read here"})


def listed(page: str) -> dict[str, Any]:
    """Return what the table holds."""
    found = re.search(r'<script type="application/base64" id="data">([^<]*)</script>', page)
    assert found
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return content


# What is in it


def test_all_models_are_listed(history: History) -> None:
    table = listed(batch_page("out", history))
    assert table["target"] == [each.target for each in history.entries]
    assert table["state"]["texts"] == ["done", "failed", "unfinished"]
    assert table["exit"] == {"41": 4, "42": 4, "43": 70}
    assert table["attempts"] == {"40": 3}
    assert (table["before"][3], table["after"][3]) == (1003, 903)


def test_formats_are_summed(history: History) -> None:
    first, second = sums(history.entries)
    assert (first.name, first.models, first.before) == (BOTH, 40, 40 * 1000 + 780)
    assert (second.name, second.models, second.after) == ("keras-h5 → safetensors", 1, 940)


def test_a_hundred_thousand_models_fit() -> None:
    entries = [entry(number) for number in range(99_000)]
    entries += [failed(number, 4, f"zoo/{number}: is torn") for number in range(99_000, 100_000)]
    began = time.monotonic()
    page = batch_page("out", History(entries, {}))
    assert time.monotonic() - began < 30  # 3 on an idle machine
    assert len(page) < MAX_BYTES
    assert len(listed(page)["target"]) == 100_000
    assert 'id="cut"' not in page


def test_what_does_not_fit_is_cut_and_said(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorferry.pipeline.html.batch.MOST_BYTES", 1200)
    page = batch_page("out", history)
    table = listed(page)
    count = len(table["target"])
    assert 4 <= count < 45
    assert sorted(table["exit"].values()) == [4, 4, 70]
    assert f"Of 45 models {count} are listed" in page
    assert "41</dd>" in page  # the totals are of all


def test_names_of_others_set_nothing_loose() -> None:
    page = batch_page(HOSTILE, History([failed(1, 4, HOSTILE)], {HOSTILE: HOSTILE}))
    assert "<img" not in page
    assert page.count("</script>") == 2  # data, and our own
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_a_batch_without_models_has_a_page() -> None:
    page = batch_page("out", History([], {}))
    assert "nothing was converted" in page
    assert "<svg" not in page


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START, "batch", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_batch_and_its_status_write_it(tmp_path: Path, samples: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "torn.npz").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "zoo" / "good").symlink_to(samples / "npz_file")
    done = run(tmp_path, "zoo", "out", "--to", "safetensors", "--html", "batch.html")
    assert done.returncode == 7
    again = run(tmp_path, "status", "out", "--html", "status.html")
    assert again.returncode == 7
    page = (tmp_path / "batch.html").read_text(encoding="utf-8")
    assert (tmp_path / "status.html").read_text(encoding="utf-8") == page
    found = history_of(tmp_path / "out")
    assert [each.exit_code for each in found.of("failed")] == [4]
    good = found.of("done")
    assert good
    assert good[0].formats == BOTH
    assert good[0].before
    assert listed(page)["target"] == [each.target for each in found.entries]


def test_a_page_that_has_no_place_is_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    done = run(tmp_path, "zoo", "out", "--to", "npz", "--html", "no/such/page.html")
    assert done.returncode == 2
    assert "the folder does not exist" in done.stderr
    assert not (tmp_path / "out").exists()


# In a browser


class Tab:
    """A page that is open, with everything it said and asked for."""

    def __init__(self, browser: Any, path: Path, page: str) -> None:
        write_page(path, page)
        self.page = browser.new_context(viewport={"width": 1280, "height": 1600}).new_page()
        self.page.set_default_timeout(20_000)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url)
        self.page.locator("#table[data-ready]").wait_for()

    def targets(self) -> list[str]:
        """Return the targets in the rows that are drawn."""
        found: list[str] = self.page.eval_on_selector_all(
            "#rows [data-model] .name", "rows => rows.map((row) => row.title)"
        )
        return found


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[[str], Tab]]:
    """Open pages; at the end they must have said no error and asked for nothing."""
    tabs: list[Tab] = []

    def open_one(page: str) -> Tab:
        tabs.append(Tab(browser, tmp_path / f"{len(tabs)}.html", page))
        return tabs[-1]

    yield open_one
    for each in tabs:
        each.page.context.close()
        assert each.said == []
        assert {url.partition("#")[0] for url in each.asked} == {each.url}


@pytest.mark.oracle
def test_models_are_searched_sorted_and_picked(
    opened: Callable[[str], Tab], history: History
) -> None:
    tab = opened(batch_page("out", history))
    page = tab.page
    page.fill("#search", "TEAM3 run000010")
    assert tab.targets() == [history.entries[10].target]
    page.fill("#search", "torn")
    assert tab.targets() == [history.entries[42].target]
    page.fill("#search", "no such model")
    assert page.locator("#rows").inner_text() == "Nothing matches."
    page.fill("#search", "")
    page.select_option("#pick-state", label="failed (3)")
    assert tab.targets() == [each.target for each in history.entries[41:44]]
    page.select_option("#pick-state", "")
    page.locator("[data-column=before] button").click()
    assert tab.targets()[0] == history.entries[44].target
    page.locator("[data-column=before] button").click()
    assert tab.targets()[0] == history.entries[0].target


@pytest.mark.oracle
def test_a_kind_of_failure_leads_to_its_models(
    opened: Callable[[str], Tab], history: History
) -> None:
    tab = opened(batch_page("out", history))
    tab.page.get_by_role("button", name="2 models").click()
    assert tab.targets() == [each.target for each in history.entries[41:43]]
    tab.page.locator("[data-model]").first.click()
    shown = tab.page.locator("#details").inner_text()
    assert "expected 0x1, got 0x2" in shown
    assert "copy it again" in shown
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#details").is_hidden()
    tab.page.get_by_role("button", name="Show all").click()
    assert tab.page.locator("#found").inner_text().startswith("45 of 45")


@pytest.mark.oracle
def test_plots_have_bars(opened: Callable[[str], Tab], history: History) -> None:
    tab = opened(batch_page("out", history))
    heights = tab.page.eval_on_selector_all(
        "svg", "all => all.map((svg) => svg.querySelectorAll('rect').length)"
    )
    assert len(heights) == 3
    assert min(heights) > 5


@pytest.mark.oracle
def test_a_hundred_thousand_models_are_quick(opened: Callable[[str], Tab]) -> None:
    tab = opened(batch_page("out", History([entry(each) for each in range(100_000)], {})))
    assert tab.page.locator("#found").inner_text().startswith("100,000 of 100,000")
    assert len(tab.targets()) < 100  # those in view
    for words, seconds in (("run099999", 3), ("team3", 3)):  # a tenth of that when idle
        began = time.monotonic()
        tab.page.fill("#search", words)
        assert words in tab.targets()[0]
        assert time.monotonic() - began < seconds
    tab.page.fill("#search", "")
    tab.page.get_by_role("button", name="Took").click()
    tab.page.eval_on_selector("#scroller", "each => { each.scrollTop = each.scrollHeight; }")
    tab.page.locator('[aria-rowindex="100001"]').wait_for()


@pytest.mark.oracle
def test_hostile_names_do_nothing(opened: Callable[[str], Tab]) -> None:
    bad = Entry(HOSTILE, HOSTILE, "failed", HOSTILE, 1, 0, 0.1, 1, 1.7e9, 4, HOSTILE, HOSTILE)
    tab = opened(batch_page(HOSTILE, History([bad], {HOSTILE: HOSTILE})))
    tab.page.locator("[data-model]").click()
    assert "<script>" in tab.page.locator("#details h2").inner_text()
    assert tab.page.evaluate("window.hit") is None
    assert tab.page.locator("#rows img, #details img, main img").count() == 0
