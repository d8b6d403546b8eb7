"""The page in a real headless Chromium: an image is dropped, neighbours are seen, keys and colours work."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from pipeline import collection
from pipeline.collection import Collection
from tests.codes.conftest import draw
from tests.web.conftest import HOSTILE, SMALL, running
from tests.web.proxy import proxied

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = [name for name, found in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if not found]
pytestmark = [
    pytest.mark.network,
    pytest.mark.one_precision,  # what a page shows and does
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt: chromium-driver)"),
]

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
)  # fmt: skip
# A file dropped on the page as a browser would: the events with a DataTransfer that holds it.
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], arguments[1], { type: "image/png" }));
for (const name of ["dragenter", "dragover", "drop"]) {
  document.getElementById("drop").dispatchEvent(
    new DragEvent(name, { bubbles: true, cancelable: true, dataTransfer: transfer }));
}
"""
PASTE = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
document.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, clipboardData: transfer }));
"""


@pytest.fixture(scope="module")
def server(built: Path) -> Iterator[str]:
    with running(built / "my.index") as base:
        yield base


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra: dev)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Page:
    """What a user sees and does."""

    def __init__(self, chrome: Chrome, base: str) -> None:
        self.chrome, self.base = chrome, base
        # A dark or a light theme that another test chose is not this one's.
        chrome.get(base + "/docs")
        chrome.execute_script("localStorage.clear()")
        chrome.get_log("browser")
        chrome.get_log("performance")

    def open(self, path: str = "/") -> Page:
        self.chrome.get(self.base + path)
        return self

    def wait(self, condition: str, *args: Any) -> Any:
        """The value of a JavaScript expression, once it is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        script = f"return ({condition})"
        return WebDriverWait(self.chrome, 60, 0.05).until(lambda c: c.execute_script(script, *args), message=condition)

    def until_drawn(self, title: str) -> None:
        self.wait(
            "document.getElementById('title').textContent.includes(arguments[0]) && !document.querySelector('.busy')",
            title,
        )

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [e.text for e in self.all(selector)]

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.chrome).send_keys(*keys).perform()

    def focused(self) -> str:
        found: str = self.chrome.execute_script("return document.activeElement.href || ''")
        return found.removeprefix(self.base)

    def problems(self) -> list[str]:
        return [entry["message"] for entry in self.chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def hosts(self) -> set[str]:
        """Every host that was asked for anything."""
        events = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in asked if not url.startswith("data:")}


@pytest.fixture
def page(chrome: Chrome, server: str) -> Page:
    return Page(chrome, server)


def neighbours_shown(page: Page) -> list[tuple[str, str]]:
    """(distance, id) of every tile."""
    distances = page.texts(".grid .rank span")
    links = [e.get_attribute("href") or "" for e in page.all(".grid a")]
    return list(zip(distances, [link.split("image=")[1].split("&")[0] for link in links], strict=True))


def test_an_image_is_dropped_and_its_neighbours_are_seen(page: Page, built: Path, tmp_path: Path) -> None:
    page.open().until_drawn("12 images")
    image = draw(tmp_path / "new.png", 700)
    page.chrome.execute_script(DROP, base64.b64encode(image.read_bytes()).decode(), "<b>new</b>.png")
    page.until_drawn("Most like your image")
    expected = Collection.open(built / "my.index").search(image, k=12, method="topk")
    assert neighbours_shown(page) == [(expected.method.format(n.distance), n.id) for n in expected.neighbours]
    summary = page.texts("#summary")[0]
    assert "by topk, pool5-flatten" in summary and "network" in summary and "search" in summary
    page.wait("[...document.querySelectorAll('.grid img')].slice(0, 4).every((i) => i.complete && i.naturalWidth > 0)")
    page.wait("document.querySelector('.preview img').naturalWidth === 80")
    assert page.problems() == []
    assert page.hosts() == {urlsplit(page.base).netloc}


def test_below_a_path_of_a_proxy(chrome: Chrome, built: Path, tmp_path: Path) -> None:
    """With nginx's default Host, at another port than the server's, every view, link and upload works."""
    with running(built / "my.index", names=("127.0.0.1",)) as base, proxied(base) as outside:
        page = Page(chrome, outside.rstrip("/"))
        page.open().until_drawn("12 images")
        page.wait(
            "[...document.querySelectorAll('.grid img')].slice(0, 4).every((i) => i.complete && i.naturalWidth > 0)"
        )
        page.all("#file")[0].send_keys(str(draw(tmp_path / "new.png", 705)))
        page.until_drawn("Most like your image")
        uploaded = page.chrome.current_url
        assert uploaded.startswith(f"{outside}?")
        page.all(".grid a")[1].click()
        page.wait("!document.getElementById('title').textContent.includes('your image')")
        page.chrome.back()
        page.until_drawn("your image")
        for view in ("map", "duplicates", "browse"):
            page.all(f"nav [data-view={view}]")[0].click()
            page.wait(f"document.querySelector('nav [data-view={view}]').ariaCurrent === 'page'")
            page.wait("!document.querySelector('.busy')")
        page.all("footer a")[0].click()
        page.wait("document.querySelectorAll('#operations section').length > 5")
        assert page.texts("#base") == [outside.rstrip("/")]
        page.chrome.get(f"{outside}no/such/page")
        page.all("main a")[0].click()
        page.until_drawn("12 images")
        assert page.hosts() == {urlsplit(outside).netloc}
        assert [problem for problem in page.problems() if "no/such/page" not in problem] == []


def test_a_click_searches_and_back_goes_back(page: Page, built: Path, tmp_path: Path) -> None:
    page.open().until_drawn("12 images")
    page.all("#file")[0].send_keys(str(draw(tmp_path / "new.png", 701)))
    page.until_drawn("Most like your image")
    first = neighbours_shown(page)
    page.all(".grid a")[1].click()
    page.wait("!document.getElementById('title').textContent.includes('your image')")
    page.until_drawn("Most like")
    found = Collection.open(built / "my.index").search_id(first[1][1], k=11, method="topk")
    assert [i for _, i in neighbours_shown(page)] == [n.id for n in found.neighbours]
    shared = page.chrome.current_url
    page.chrome.back()
    page.until_drawn("your image")
    assert neighbours_shown(page) == first
    page.chrome.get(shared)
    page.until_drawn("Most like")
    assert [i for _, i in neighbours_shown(page)] == [n.id for n in found.neighbours]
    assert page.problems() == []


def test_a_pasted_image(page: Page, tmp_path: Path) -> None:
    page.open().until_drawn("12 images")
    page.chrome.execute_script(PASTE, base64.b64encode(draw(tmp_path / "p.png", 702).read_bytes()).decode())
    page.until_drawn("your image")
    assert len(neighbours_shown(page)) == 12


def test_keys(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open().until_drawn("12 images")
    links = [e.get_attribute("href").removeprefix(page.base) for e in page.all(".grid a")]  # type: ignore[union-attr]
    page.keys(Keys.ARROW_DOWN)
    assert page.focused() == links[0]
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.focused() == links[2]
    page.keys(Keys.END)
    assert page.focused() == links[-1]
    page.keys(Keys.HOME)
    columns = page.wait(
        "((a) => a.filter((x) => x.offsetTop === a[0].offsetTop).length)([...document.querySelectorAll('.tile')])"
    )
    page.keys(Keys.ARROW_DOWN)
    assert page.focused() == links[columns]
    assert page.chrome.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keys("v")
    page.wait("document.getElementById('viewer').open")
    page.keys(Keys.ESCAPE)
    page.keys(Keys.ENTER)
    page.until_drawn("Most like")
    assert links[columns] in page.chrome.current_url
    page.keys("?")
    page.wait("document.getElementById('keys').open")
    page.keys(Keys.ESCAPE)
    page.keys("r")
    page.wait("!location.href.endsWith(arguments[0])", links[columns])
    page.keys("m")
    page.until_drawn("Map of the collection")
    page.keys("d")
    page.until_drawn("near-identical")
    page.keys("b")
    page.until_drawn("12 images")
    assert page.problems() == []


def test_dark_and_light(page: Page) -> None:
    page.open().until_drawn("12 images")
    colour = "return getComputedStyle(document.body).backgroundColor"
    system = page.chrome.execute_script(colour)
    page.all("#theme")[0].click()
    chosen = page.chrome.execute_script(colour)
    assert chosen != system
    page.open("/docs")
    assert page.chrome.execute_script(colour) == chosen  # it is remembered
    page.open().until_drawn("12 images")
    page.keys("t")
    assert page.chrome.execute_script(colour) == system


def test_the_form_is_the_address(page: Page, built: Path) -> None:
    own = str(Collection.open(built / "my.index").ids[5])
    page.open(f"/?image={own}").until_drawn("Most like")
    choose = "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
    choose += "s.dispatchEvent(new Event('change', { bubbles: true }))"
    page.chrome.execute_script(choose, "layer", "conv3_3-avg")
    page.wait("document.getElementById('summary').textContent.includes('by cosine, conv3_3-avg')")
    page.chrome.execute_script(choose, "k", "3")
    page.wait("document.querySelectorAll('.tile').length === 3")
    page.chrome.execute_script(choose, "label", f"={HOSTILE}")
    page.wait("[...document.querySelectorAll('.grid .label')].every((l) => l.textContent === arguments[0])", HOSTILE)
    page.chrome.execute_script(choose, "radius", "0")
    page.until_drawn("Nothing so near")
    assert "the nearest is at" in page.texts("#content")[0]
    for part in ("method=cosine", "layer=conv3_3-avg", "k=3", "radius=0", "label=%3Cimg"):
        assert part in page.chrome.current_url
    page.chrome.execute_script(choose, "k", "999")
    page.wait("!document.getElementById('error').hidden")
    assert "999" in page.texts("#error")[0] and "500" in page.texts("#error")[0]


def test_hostile_names_are_text(page: Page) -> None:
    page.open("/?label=" + "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E").until_drawn("4 images")
    assert HOSTILE in page.texts("#title")[0] and HOSTILE in page.texts(".grid .label")
    assert page.chrome.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert page.problems() == []


def test_a_broken_upload_is_said_in_words(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"<svg onload='alert(1)'/>")
    page.open().until_drawn("12 images")
    page.all("#file")[0].send_keys(str(broken))
    page.wait("!document.getElementById('error').hidden")
    assert "not an image of a format that is read here" in page.texts("#error")[0]


def test_files_that_are_gone_and_an_empty_collection(
    chrome: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(tmp_path / "cache"))
    files = [draw(tmp_path / "photos" / f"{i}.png", i) for i in range(3)]
    photos = collection.build(tmp_path / "photos", tmp_path / "my.index", **SMALL)
    for file in files:
        file.unlink()
    with running(tmp_path / "my.index") as base:
        page = Page(chrome, base)
        page.open().until_drawn("3 images")
        page.wait("document.querySelectorAll('.picture.gone').length === 3")
        page.all(".grid a")[0].click()  # its codes are still there
        page.until_drawn("Most like")
        assert len(neighbours_shown(page)) == 2
    collection.remove(tmp_path / "my.index", photos.ids.tolist())
    with running(tmp_path / "my.index") as base:
        page = Page(chrome, base)
        page.open().until_drawn("0 images")
        assert "The collection is empty" in page.texts("#content")[0]
        page.open("/?view=map").until_drawn("Map")
        page.keys("r")
        page.wait("!document.getElementById('error').hidden")
        assert "the collection is empty" in page.texts("#error")[0].lower()


def test_the_map_is_clicked(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open("/?view=map").until_drawn("Map")
    page.wait("document.querySelector('canvas').width > 0")
    page.chrome.execute_script("document.querySelector('canvas').focus()")
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    page.wait("!document.querySelector('.card').hidden")
    page.keys(Keys.ENTER)
    page.until_drawn("Most like")
    assert page.problems() == []


def test_narrow_screens_need_no_sideways_scrolling(page: Page) -> None:
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # type: ignore[no-untyped-call]
    try:
        for path in ("/", "/?view=map", "/?view=duplicates&method=lsh&radius=64", "/docs"):
            page.open(path)
            page.wait("document.readyState === 'complete' && !document.querySelector('.busy')")
            assert page.chrome.execute_script("return document.documentElement.scrollWidth") <= 390, path
    finally:
        page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})  # type: ignore[no-untyped-call]


def test_the_api_page_is_drawn(page: Page) -> None:
    page.open("/docs")
    page.wait("document.querySelectorAll('#operations section').length > 9")
    assert any("/api/search" in text for text in page.texts("#operations h2"))
    assert page.problems() == [] and page.hosts() == {urlsplit(page.base).netloc}


def test_an_approximate_index_is_chosen_or_every_image_compared(chrome: Chrome, built: Path, tmp_path: Path) -> None:
    settings = {"kind": "hnsw", "links": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(built / "cache"))
        photos = collection.build(built / "photos", tmp_path / "my.index", hasher="lsh", index=settings, **SMALL)
    choose = "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
    choose += "s.dispatchEvent(new Event('change', { bubbles: true }))"
    hidden = "return document.getElementById('exact-field').hidden"
    with running(tmp_path / "my.index") as base:
        page, own = Page(chrome, base), str(photos.ids[5])
        page.open(f"/?image={own}").until_drawn("Most like")
        assert page.chrome.execute_script(hidden)  # topk compares every image
        assert "hnsw" not in page.texts("#summary")[0]
        page.chrome.execute_script(choose, "method", "lsh")
        page.wait("document.getElementById('summary').textContent.includes('lsh, conv5_3-avg, hnsw')")
        assert not page.chrome.execute_script(hidden)
        recall = collection.info(tmp_path / "my.index")["index"]["recall_at_10"]
        assert page.texts("#exact option") == [
            f"hnsw (finds {100 * recall:.1f} % of the 10 nearest)",
            "exact (compares every image)",
        ]
        found = photos.search_id(own, k=12, method="lsh").neighbours
        assert [i for _, i in neighbours_shown(page)] == [n.id for n in found]
        page.chrome.execute_script(choose, "exact", "true")
        page.wait("!document.getElementById('summary').textContent.includes('hnsw')")
        assert "exact=true" in page.chrome.current_url
        found = photos.search_id(own, k=12, method="lsh", exact=True).neighbours
        assert [i for _, i in neighbours_shown(page)] == [n.id for n in found]
        page.all("#file")[0].send_keys(str(draw(tmp_path / "new.png", 706)))
        page.until_drawn("your image")
        assert "hnsw" not in page.texts("#summary")[0]
        page.chrome.execute_script(choose, "exact", "")
        page.wait("document.getElementById('summary').textContent.includes('hnsw')")
        assert page.problems() == []


def test_an_exact_index_offers_no_choice(page: Page, built: Path) -> None:
    own = str(Collection.open(built / "my.index").ids[5])
    short = Collection.open(built / "my.index").made_by["short"]["hasher"]
    page.open(f"/?image={own}&method={short}").until_drawn("Most like")
    assert page.chrome.execute_script("return document.getElementById('exact-field').hidden")
    assert page.problems() == []
