"""Take the pictures of the guide from sample models: `python tools/screenshots.py`.

The pages are those that the command line writes. The browser is the one of the tests
(`make browser`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "sample_models" / "tf1_adam_ema"
IMAGES = REPOSITORY / "docs" / "guide" / "images"
CONVERT = Path(sys.executable).with_name("convert")
BROWSER = "/usr/bin/chromium"
DESKTOP, TALL, PHONE = (1200, 900), (1200, 1400), (390, 844)


def convert(folder: Path, *words: str) -> None:
    """Run a command line; that it found something is no failure."""
    done = subprocess.run([CONVERT, *words, "--quiet"], cwd=folder, stdout=subprocess.DEVNULL)
    if done.returncode > 1:
        sys.exit(done.returncode)


def changed(folder: Path) -> None:
    """Write a model that differs from `before.npz`: changed, cast, missing and added tensors."""
    convert(folder, "before.npz", "cast.npz", "--dtype", "dense_1/*=float16")
    with np.load(folder / "cast.npz") as stored:
        arrays = dict(stored)
    noise = np.random.default_rng(1)
    for power, name in enumerate(name for name in list(arrays) if name.startswith("dense/")):
        spread = 10.0 ** (power % 5 - 3)
        arrays[name] = arrays[name] * (1 + spread * noise.standard_normal(arrays[name].shape))
        arrays[name] = arrays[name].astype("float32")
    arrays["dense_2/kernel"] = noise.standard_normal((3, 8)).astype("float32")
    del arrays["beta2_power"]
    np.savez(folder / "after.npz", **arrays)


@contextmanager
def opened(page: Path, size: tuple[int, int], scheme: str) -> Iterator[Any]:
    """Open a page in the browser."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        view = {"width": size[0], "height": size[1]}
        tab = browser.new_page(viewport=view, color_scheme=scheme)
        tab.goto(page.as_uri())
        for plot in tab.locator("[data-plot]").all():
            plot.scroll_into_view_if_needed()
            tab.locator(f"#{plot.get_attribute('id')}[data-drawn]").wait_for()
        tab.evaluate("scrollTo(0, 0)")
        yield tab
        browser.close()


def take(tab: Any, name: str, at: str = "") -> None:
    """Store what is seen, scrolled to a part of the page."""
    if at:
        tab.evaluate("id => document.getElementById(id).scrollIntoView()", at)
    tab.wait_for_timeout(400)  # the library fades new plots in
    tab.screenshot(path=IMAGES / f"{name}.png")


def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").symlink_to(MODEL)
        convert(folder, "model", "before.npz")
        changed(folder)
        convert(folder, "inspect", "model", "--stats", "--html", "model.html")
        convert(folder, "diff", "before.npz", "after.npz", "--html", "diff.html")
        with opened(folder / "model.html", TALL, "light") as tab:
            take(tab, "report")
        with opened(folder / "model.html", DESKTOP, "dark") as tab:
            tab.locator("#rows [data-tensor]", has_text="moving_variance").click()
            take(tab, "tensor", "values")
        with opened(folder / "diff.html", TALL, "light") as tab:
            take(tab, "diff")
        with opened(folder / "model.html", PHONE, "light") as tab:
            take(tab, "phone", "tensors")


if __name__ == "__main__":
    main()
