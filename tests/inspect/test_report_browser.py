"""The page of a model's graphs in a real browser, headless Chromium."""

from __future__ import annotations

import csv
import io
import shutil
import time
from dataclasses import replace

import pytest
import torch

import graphformer as gf
from tests.adapter_models import make
from tests.inspect.test_report import NASTY, graphs_of, small

pytest.importorskip("selenium", reason="selenium drives the browser (extra dev)")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"
    ),
]


class Browser:
    """A browser with one page of ours."""

    def __init__(self, profile, downloads):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(executable_path=DRIVER)
        )
        self.downloads = downloads
        self.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def tell(self, command, **settings):
        return self.driver.execute_cdp_cmd(command, settings)

    def show(self, graphs, folder, width=1280, **options):
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        path = folder / f"{time.monotonic_ns()}.html"
        graphs.report(path, **options)
        self.driver.get(path.as_uri())
        self.wait("graphformer.ready")

    def js(self, code, *arguments):
        return self.driver.execute_script(f"return {code}", *arguments)

    def wait(self, code, *arguments):
        """Until it holds; for at most a minute, which a busy machine may take."""
        end = time.monotonic() + 60
        while not (found := self.js(code, *arguments)):
            assert time.monotonic() < end, code
            time.sleep(0.02)
        return found

    def painted(self):
        """Until two frames were drawn, so that what was asked for is seen."""
        self.driver.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )

    def open(self, layer, head, view=None):
        self.js("graphformer.open(arguments[0], arguments[1])", layer, head)
        if view is not None:
            self.js(f"document.querySelector('[data-view={view}]').click()")
        self.painted()

    def find(self, name):
        return self.driver.find_element(By.ID, name)

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)
        self.painted()

    def fill(self, name, value):
        """As a user does: the value changes, and the element says so."""
        self.js(
            "(e => { e.value = arguments[1]; e.dispatchEvent(new Event('input'));"
            "e.dispatchEvent(new Event('change')) })(document.getElementById(arguments[0]))",
            name,
            value,
        )
        self.painted()

    def drawn(self):
        return int(self.find("count").get_attribute("data-edges"))

    def colours(self):
        """The first pixel of the canvas, ``[red, green, blue, opacity]``, and how many colours
        there are; read from a copy, because reading the page's own makes Chromium complain.
        """
        return self.driver.execute_script(
            "const from = document.getElementById('canvas');"
            "const copy = Object.assign(document.createElement('canvas'),"
            "{width: from.width, height: from.height});"
            "const to = copy.getContext('2d', {willReadFrequently: true});"
            "to.drawImage(from, 0, 0);"
            "const {data} = to.getImageData(0, 0, copy.width, copy.height);"
            "return [Array.from(data.slice(0, 4)), new Set(new Uint32Array(data.buffer)).size]"
        )

    def point_at(self, x, y):
        """The mouse on a point of the canvas, in pixels from its corner."""
        box = self.js(
            "(b => [b.left, b.top])(document.getElementById('canvas').getBoundingClientRect())"
        )
        self.tell(
            "Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + x, y=box[1] + y, button="none"
        )
        self.painted()

    def errors(self):
        return [one["message"] for one in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    browser = Browser(tmp_path_factory.mktemp("profile"), downloads)
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(started):
    """Whatever a test does, the page says nothing to the console and asks for no other file."""
    started.errors()
    yield started
    assert started.errors() == []
    assert (
        started.js(
            "performance.getEntriesByType('resource').map(e => e.name)"
            ".filter(n => !n.startsWith('data:') && !n.startsWith('blob:'))"
        )
        == []
    )


def named(graphs, labels):
    """The same with these labels at every side."""
    nodes = {
        side: replace(one, labels=(tuple(labels[i % len(labels)] for i in range(one.count)),) * 2)
        for side, one in graphs.nodes.items()
    }
    return replace(graphs, nodes=nodes)


def lane(graphs, layer, head, sequence=0):
    one = graphs.of_sequence(sequence)
    return one[layer, head].lane(0)


def test_the_slider_and_the_heaviest_of_a_row_change_what_is_drawn(browser, tmp_path):
    graphs = graphs_of()
    browser.show(graphs, tmp_path)
    browser.open(1, 2)
    graph = lane(graphs, 1, 2)
    assert browser.drawn() == graph.num_edges > 30
    counts = [browser.drawn()]
    for value in (300, 500, 700, 1000):
        browser.fill("least", value)
        least = browser.js("graphformer.state.least")
        counts.append(browser.drawn())
        # a weight on the page is off by at most half a step of 16 bits
        fewest, most = (int((graph.weight > least + x).sum()) for x in (1e-5, -1e-5))
        assert fewest <= counts[-1] <= most
    assert len(set(counts)) > 2 and counts == sorted(counts, reverse=True)
    browser.fill("least", 0)
    for top in (1, 3):
        browser.fill("top", top)
        degree = torch.bincount(graph.receivers)
        assert browser.drawn() == int(degree.clamp(max=top).sum()) < graph.num_edges
        kept = list(csv.DictReader(io.StringIO(browser.js("graphformer.csv()"))))
        for receiver in range(graph.num_receivers):
            weights = graph.weight[graph.receivers == receiver].sort(descending=True).values
            held = sorted(
                (float(e["weight"]) for e in kept if int(e["receiver"]) == receiver), reverse=True
            )
            assert held == pytest.approx(weights[:top].tolist(), abs=1e-4)
    browser.fill("top", "")
    browser.fill("from", 2)
    browser.fill("to", 6)
    inside = [(x >= 2) & (x <= 6) for x in (graph.senders, graph.receivers)]
    assert browser.drawn() == int((inside[0] & inside[1]).sum()) < graph.num_edges


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_files_that_are_saved_hold_the_visible_edges(name, browser, tmp_path):
    networkx = pytest.importorskip("networkx")
    graphs = named(graphs_of(name), [*NASTY[:-4], "=1+1", "a,b"])
    browser.show(graphs, tmp_path)
    layer = len(graphs) - 1
    browser.open(layer, 1)
    browser.fill("sequence", 1)
    browser.fill("least", 300)
    least, graph = browser.js("graphformer.state.least"), lane(graphs, layer, 1, 1)
    keep = graph.weight > least
    want = {
        (int(s), int(r)): float(w)
        for s, r, w in zip(
            graph.senders[keep], graph.receivers[keep], graph.weight[keep], strict=True
        )
    }
    assert 3 < len(want) < graph.num_edges
    senders, receivers = graphs.labels(layer, 1)
    for button in ("csv", "graphml", "png"):
        browser.find(button).click()
    files = {}
    for suffix in ("csv", "graphml", "png"):
        path = browser.downloads / f"layer{layer}_head1_1.{suffix}"
        end = time.monotonic() + 60
        while not path.exists() or not path.stat().st_size:
            assert time.monotonic() < end, path
            time.sleep(0.05)
        files[suffix] = path.read_bytes()
        path.unlink()
    rows = list(csv.DictReader(io.StringIO(files["csv"].decode(), newline="")))
    assert {(int(e["sender"]), int(e["receiver"])): float(e["weight"]) for e in rows} == (
        pytest.approx(want, abs=1e-4)
    )
    for row in rows:
        assert row["layer"] == graphs.names[layer] and row["head"] == "1" and row["sequence"] == "1"
        assert row["sender_label"] == senders[int(row["sender"])]
        assert row["receiver_label"] == receivers[int(row["receiver"])]
    read = networkx.parse_graphml(files["graphml"].decode())
    shift = graph.num_senders if name == "t5" else 0
    assert {
        (int(s[1:]), int(r[1:]) - shift): w for s, r, w in read.edges(data="weight")
    } == pytest.approx(want, abs=1e-4)
    labels = [read.nodes[f"n{i}"]["label"] for i in range(len(senders))]
    assert labels == [label.replace("\x00", "U+0000") for label in senders]
    assert files["png"].startswith(b"\x89PNG") and len(files["png"]) > 2000


def test_hovering_names_a_node_and_whom_it_attends_to(browser, tmp_path):
    words = ["The", " cat", " sat", "</b>", "漢字"]
    graphs = named(graphs_of(), words)
    browser.show(graphs, tmp_path)
    browser.open(0, 0, "arcs")
    assert not browser.find("tip").is_displayed()
    width = browser.js("document.getElementById('canvas').clientWidth")
    for node in (3, 9):
        browser.point_at(10 + (node + 0.5) * (width - 20) / 11, 60)
        tip = browser.find("tip")
        assert tip.is_displayed()
        text = tip.text
        assert text.startswith(f"{node} “{words[node % 5].replace(' ', '␣')}”")
        graph = lane(graphs, 0, 0)
        found = graph.weight[graph.receivers == node]
        assert f"attends to {len(found)}:" in text
        best = int(graph.senders[graph.receivers == node][found.argmax()])
        assert f": {best} “{words[best % 5].replace(' ', '␣')}” {found.max():.3g}" in text
    browser.js("document.querySelector('[data-view=matrix]').click()")
    browser.painted()
    browser.point_at(5, 5)


def test_the_page_is_used_by_keys_alone(browser, tmp_path):
    browser.show(graphs_of(), tmp_path)
    browser.js("document.querySelector('.head').focus()")
    browser.press(Keys.ARROW_RIGHT)
    browser.press(Keys.ARROW_DOWN)
    assert browser.js("document.activeElement.ariaLabel").startswith("Layer 1, head 1, ")
    assert browser.js("document.querySelectorAll('.head[tabindex=\"0\"]').length") == 1
    outline = browser.js("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.press(Keys.ENTER)
    assert browser.find("detail").is_displayed() and not browser.find("overview").is_displayed()
    assert browser.find("name").text.startswith("Layer 1, head 1 ·")
    order = []
    while (here := browser.js("document.activeElement.id")) != "canvas":
        order.append(here)
        browser.press(Keys.TAB)
        assert len(order) < 30, order
    assert {"png", "csv", "graphml"} <= set(order)
    browser.press(Keys.HOME)
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.js("graphformer.state.pick") == 2
    assert browser.find("readout").text.startswith("2 “2”")
    browser.press(Keys.PAGE_DOWN)
    assert browser.find("name").text.startswith("Layer 1, head 2 ·")
    browser.press(Keys.ESCAPE)
    assert browser.find("overview").is_displayed() and not browser.find("detail").is_displayed()
    assert browser.js("document.activeElement.ariaLabel").startswith("Layer 1, head 2, ")


def test_search_marks_nodes_and_enter_goes_to_the_next(browser, tmp_path):
    graphs = named(graphs_of(), ["cat", "Dog", " ", "a\nb"])
    browser.show(graphs, tmp_path)
    browser.open(0, 0)
    for query, found in (("dog", [1, 5, 9]), ("↵", [3, 7]), ("zebra", [])):
        browser.fill("search", query)
        assert browser.js("[...graphformer.state.found]") == found
        assert browser.find("matches").text == f"{len(found)} nodes"
    browser.fill("search", "dog")
    browser.find("search").send_keys(Keys.ENTER, Keys.ENTER)
    assert browser.js("graphformer.state.pick") == 5


def test_texts_are_shown_and_never_run(browser, tmp_path):
    graphs = small(
        [(i, i + 1, 0.5) for i in range(len(NASTY) - 1)], len(NASTY), labels=(tuple(NASTY),)
    )
    title = "</title><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    browser.show(graphs, tmp_path, title=title)
    assert browser.find("title").text == title == browser.driver.title
    browser.open(0, 0)
    seen = [
        "</script>",
        "<b>bold",
        '"',
        "'",
        "&amp;",
        "U+0000",
        "שלום",
        "漢字",
        "U+202Eabc",
        "U+2028",
        "U+D800",
        "{{script}}",
        "<!--",
        "↵",
    ]
    for node, text in enumerate(seen):
        browser.js("graphformer.state.pick = arguments[0]", node)
        browser.js("dispatchEvent(new Event('resize'))")
        browser.painted()
        assert browser.find("readout").text.startswith(f"{node} “{text}”")
    assert browser.js("window.ran") is None
    assert browser.js("document.querySelectorAll('b').length") == 1  # the name of the one head


def of_images():
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, 12, 12)
    return gf.inspect.graphs(make("vit"), pixel_values=pixels, sparsify=None)


def in_space(dims):
    torch.manual_seed(0)
    return small(
        [(i, (3 * i + 1) % 7, 0.1 + i / 9) for i in range(7)],
        7,
        kind="residue",
        pos=torch.randn(1, 7, dims),
    )


VIEWS = {
    "text": (lambda: named(graphs_of(length=23), ["The", " cat", " sat", "."]), "arcs"),
    "cross": (lambda: graphs_of("t5").cross, "rows"),
    "merged": (lambda: graphs_of(merge="max"), "arcs"),
    "image": (of_images, "patches"),
    "protein": (lambda: in_space(3), "places"),
    "grains": (lambda: in_space(2), "places"),
    "empty": (lambda: small([(0, 0, 0.5)], 1), "arcs"),
}


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", VIEWS)
def test_every_view_draws_without_running_over_the_edge(name, width, browser, tmp_path):
    build, first = VIEWS[name]
    graphs = build()
    heads = {
        (i, head): 0.3 - i for i, one in enumerate(graphs.layers) for head in one.heads or (None,)
    }
    measures = {key: {"a_measure_with_a_long_name": 1 / 3} for key in heads}
    browser.show(graphs, tmp_path, width, ablation=heads, measures=measures)
    wide = "document.documentElement.scrollWidth"
    assert browser.js(wide) <= width
    browser.fill("measure", "a_measure_with_a_long_name")
    browser.open(0, 0)
    assert browser.js("graphformer.state.view") == first
    views = browser.js("[...document.querySelectorAll('#views button')].map(b => b.dataset.view)")
    assert "matrix" in views
    blank = set()
    for view in views:
        browser.open(0, 0, view)
        for pick in (-1, 0):
            browser.js("graphformer.state.pick = arguments[0]", pick)
            browser.js("dispatchEvent(new Event('resize'))")
            browser.painted()
            assert browser.js(wide) <= width
            if browser.colours()[1] < 3:
                blank.add(view)
        assert browser.drawn() == lane(graphs, 0, 0).num_edges if graphs.layers[0].heads else True
    assert not blank
    box = browser.js(
        "(b => [b.left, b.right])(document.getElementById('numbers').getBoundingClientRect())"
    )
    assert box[0] >= 0 and box[1] <= width
    assert "0.333" in browser.find("numbers").text


def test_a_molecule_is_drawn_under_its_edges(browser, tmp_path):
    pytest.importorskip("rdkit")
    graphs = small([(0, 6, 0.5), (6, 3, 0.9)], 7, kind="atom", texts=("c1ccccc1O",))
    browser.show(graphs, tmp_path)
    browser.open(0, 0)
    assert browser.js("graphformer.state.view") == "molecule"
    browser.wait("graphformer.page.sequences[0].nodes.nodes.image.complete")
    browser.painted()
    places = browser.js("graphformer.page.sequences[0].nodes.nodes.parts")
    box = browser.js("[document.getElementById('canvas').clientWidth]")[0]
    wide = min(box, 780)
    for node in (0, 6):
        x, y = places[2 * node], places[2 * node + 1]
        browser.point_at((box - wide) / 2 + x * wide, y * round(wide * 420 / 640))
        assert browser.find("tip").text.startswith(f"{node} “{'O' if node == 6 else 'C'}”")


def test_what_was_left_out_is_said(browser, tmp_path):
    graphs = graphs_of()
    browser.show(graphs, tmp_path, max_edges=7)
    browser.open(0, 0)
    total = lane(graphs, 0, 0).num_edges
    assert browser.drawn() == 7
    assert browser.find("count").text == (
        f"7 edges of {total}; the page holds the 7 heaviest (max_edges=7), {total - 7} were left "
        "out"
    )
    assert "at most 7 edges a head (max_edges)" in browser.find("about").text


@pytest.mark.slow
def test_light_and_dark(browser, tmp_path):
    found = {}
    for scheme in ("light", "dark"):
        browser.tell(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        browser.show(graphs_of(), tmp_path)
        browser.open(0, 0, "matrix")
        found[scheme] = browser.colours()[0]
    browser.tell("Emulation.setEmulatedMedia", features=[])
    assert sum(found["light"][:3]) > 600 > 150 > sum(found["dark"][:3])
