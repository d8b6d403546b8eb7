"""The README's pictures, of real runs: the demo's page, and the search page on an index of the demo's drawings.

make pictures        # after `make demo`; needs chromium and its driver (apt: chromium-driver)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image
from selenium import webdriver

from pipeline.data.manifest import Manifest

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGE = ROOT / "out/report/index.html"
QUERY = "Animals"  # in a label of the demo; its first drawing is searched from
SIZE = (1280, 1700)
COLOURS = 128


def main() -> None:
    if not PAGE.is_file():
        sys.exit(f"{PAGE} does not exist: run `make demo` first")
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    with browser() as chrome:
        chrome.get(PAGE.as_uri())
        save(chrome, folder / "comparison.png")
        with serving() as base:
            chrome.get(f"{base}?image={some_drawing()}&k=25")
            until_drawn(chrome)
            save(chrome, folder / "search.png")


def some_drawing() -> str:
    """The id of a drawing to search from."""
    drawings = Manifest.read(ROOT / "out/dataset")
    return next(str(i) for i, label in zip(drawings.ids, drawings.labels, strict=True) if QUERY in label)


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium without a window, at a fixed size, in the light theme."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    with tempfile.TemporaryDirectory() as profile:
        for option in ("--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.add_argument(f"--window-size={SIZE[0]},{SIZE[1]}")
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            yield chrome
        finally:
            chrome.quit()


@contextmanager
def serving() -> Iterator[str]:
    """The address of the search page on an index of the demo's drawings, which is made if it isn't there."""
    index = ROOT / ".cnncodes/pictures.index"
    if not index.exists():
        images = Manifest.read(ROOT / "out/dataset").root
        make = [sys.executable, "-m", "pipeline.cli", "index", str(images), "--out", str(index), "--size", "96"]
        subprocess.run(make, check=True)
    command = [sys.executable, "-u", "-m", "pipeline.cli", "serve", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            base = server.stdout.readline().split(" is at ")[1].split()[0]
            while not httpx.get(f"{base}api/status", timeout=60).json()["ready"]:
                time.sleep(0.1)
            yield base
        finally:
            server.terminate()


def until_drawn(chrome: webdriver.Chrome) -> None:
    script = "return [...document.images].every((i) => i.complete) && !document.querySelector('.busy')"
    until = time.monotonic() + 60
    while not chrome.execute_script(script):
        if time.monotonic() > until:
            sys.exit("the search page is not drawn after a minute")
        time.sleep(0.1)
    time.sleep(1)  # until what fades in is there


def save(chrome: webdriver.Chrome, path: Path) -> None:
    """What is seen, with few colours, so that the repository stays small."""
    shot = Image.open(BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    shot.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")  # noqa: T201


if __name__ == "__main__":
    main()
