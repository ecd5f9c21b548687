"""The page: what it says of a drawing, and the page itself in a real browser.

MNIST_SUM_SCREENSHOT=FILE.png saves how the page looks on a desktop with a digit drawn:
MNIST_SUM_SCREENSHOT=assets/demo.png python -m pytest tests/test_demo.py
"""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from mnist_sum import checkpoint, demo, runs
from mnist_sum.errors import Fault
from mnist_sum.recipes import DEFAULT_MODEL, RECIPES
from mnist_sum.training import new_run

ROOT = Path(__file__).resolve().parent.parent
SEVEN = [(0.28, 0.25), (0.5, 0.22), (0.7, 0.21), (0.66, 0.33), (0.57, 0.5), (0.5, 0.65), (0.45, 0.82)]
ONE = [(0.54, 0.2), (0.52, 0.4), (0.5, 0.6), (0.48, 0.8)]
LOOPBACK = "http://127.0.0.1:"

# How wide the page would have to be to show all: what sticks out may be scrolled to or cut off.
WIDTH = """
const edges = [...document.querySelectorAll("main *")].map(part => part.getBoundingClientRect().right);
return Math.max(document.documentElement.scrollWidth, ...edges);
"""

# Python runs a sitecustomize before anything else: this one makes the server tell on itself.
WATCH = """
import sys
def watch(event, values):
    host = {"socket.connect": lambda: values[1][0], "socket.getaddrinfo": lambda: values[0]}.get(event)
    if host and host() not in ("127.0.0.1", "localhost"):
        print("outside:", event, host(), file=sys.stderr, flush=True)
sys.addaudithook(watch)
"""


def drawing(*strokes):
    """What the page's canvas holds after the strokes, as an RGB image."""
    image = Image.new("RGB", (320, 320), "white")
    pen = ImageDraw.Draw(image)
    for stroke in strokes:
        points = [(320 * x, 320 * y) for x, y in stroke]
        pen.line(points, "black", 24, joint="curve")
        for x, y in points:
            pen.ellipse((x - 12, y - 12, x + 12, y + 12), "black")
    return image


def data_url(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture(scope="module")
def models():
    return demo.load_models()


@pytest.fixture(scope="module")
def own(few, tmp_path_factory):
    """The checkpoint of a model of one's own, as yet untrained."""
    path = tmp_path_factory.mktemp("own") / "checkpoint.pt"
    run = new_run("tiny", RECIPES["tiny"], 0, torch.device("cpu"), "fp32")
    checkpoint.save(path, run, checkpoint.describe_data(few))
    return str(path)


def test_every_shipped_model_can_be_chosen(models):
    assert set(models) == {path.stem for path in runs.SHIPPED.glob("*.pt")}


def test_own_models_come_first_and_then_the_default_one(own, monkeypatch, tmp_path):
    for name in ("channel_fusion", DEFAULT_MODEL):
        shutil.copy(runs.SHIPPED / f"{DEFAULT_MODEL}.pt", tmp_path / f"{name}.pt")
    monkeypatch.setattr(runs, "SHIPPED", tmp_path)
    assert list(demo.load_models([own])) == [own, DEFAULT_MODEL, "channel_fusion"]


def test_without_a_model_one_line_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "SHIPPED", tmp_path)
    with pytest.raises(Fault, match="train.py --save"):
        demo.load_models()


def test_a_model_that_cannot_be_loaded_is_a_fault(tmp_path):
    with pytest.raises(Fault, match="does not exist"):
        demo.load_models([str(tmp_path / "nowhere.pt")])


@pytest.mark.parametrize(("stroke", "digit"), [(SEVEN, 7), (ONE, 1)])
def test_a_reading_is_what_the_model_makes_of_image_and_number(models, stroke, digit):
    for model in models.values():
        reading = demo.read(model, drawing(stroke), 6)
        assert reading.digit == digit
        for probabilities, classes in ((reading.digit_probabilities, 10), (reading.sum_probabilities, 19)):
            assert len(probabilities) == classes
            assert sum(probabilities) == pytest.approx(1)
        assert max(reading.digit_probabilities) == reading.digit_probabilities[digit]
        assert max(reading.sum_probabilities) == reading.sum_probabilities[reading.sum]
        assert reading.pixels.shape == (28, 28) and reading.pixels.dtype == torch.uint8


def test_the_page_says_what_it_read_and_shows_what_the_network_saw(models):
    said = demo.reading_markup(models[DEFAULT_MODEL], data_url(drawing(SEVEN)), 4)
    assert re.sub("<.*?>", "", said).startswith("digit 7, 7 + 4 = 11")
    reading = demo.read(models[DEFAULT_MODEL], drawing(SEVEN), 4)
    assert said.count("<rect") == (reading.pixels > 0).sum()
    assert said.count("<i>") == 10 + 19


def test_the_page_asks_for_a_digit_on_a_blank_canvas(models):
    assert demo.HINT in demo.reading_markup(models[DEFAULT_MODEL], "", 4)


@pytest.mark.parametrize(
    "url",
    [data_url(drawing()), data_url(drawing(ONE, [(0.05, 0.1), (0.1, 0.9)])), "data:image/png;base64,AA=="],
)
def test_the_page_says_why_it_read_nothing(models, url):
    said = demo.reading_markup(models[DEFAULT_MODEL], url, 4)
    assert re.search('class="hint">[^<]{20,}<', said)
    assert "=" not in re.sub("<.*?>", "", said)
    assert "<svg" not in said


def test_a_taken_port_is_a_fault():
    with socket.create_server((demo.HOST, 0)) as other, pytest.raises(Fault, match="--port"):
        demo.listen(other.getsockname()[1])


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(Fault, match=re.escape("pip install -e '.[demo]'")):
        demo.main([])


def run(*flags, **environment):
    command = [sys.executable, "-m", "mnist_sum.demo", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("flag", "code", "words"),
    [("--help", 0, "--checkpoint"), ("--port=65536", 2, "65536"), ("--port=x", 2, "not a port")],
)
def test_help_and_usage_errors_answer_without_torch(flag, code, words, tmp_path):
    heavy = ("torch", "numpy", "matplotlib", "gradio")
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({heavy}))")
    done = run(flag, PYTHONPATH=str(tmp_path))
    said = "".join(done.communicate(timeout=60))
    assert done.returncode == code
    assert words in said and "Traceback" not in said


@pytest.fixture
def server(own, tmp_path):
    """The address of the page, with a model of one's own.

    The server is ended with Ctrl-C, and must have stayed on this machine.
    """
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    process = run("--port", "0", "--checkpoint", own, PYTHONPATH=os.pathsep.join(filter(None, paths)))
    try:
        said = process.stdout.readline()
        assert said, process.stderr.read()
        yield said.split()[2]
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
        assert process.returncode == 130
        assert "outside:" not in said and "Traceback" not in said, said
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def browser():
    """A headless Chromium that can reach this machine alone."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new",
        "disable-dev-shm-usage",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(f"--{flag}")
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def resize(browser, width, height):
    size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


class Page:
    """What a person does with the page and sees on it."""

    def __init__(self, browser):
        self.browser = browser

    def find(self, selector):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, 20).until(
            lambda browser: browser.find_element("css selector", selector)
        )

    def wait_for(self, answer):
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 20, ignored_exceptions=[Exception]).until(
            lambda browser: self.find("#reading .answer").text == answer, answer
        )

    def draw(self, stroke, pointer):
        """Press and move; the pointer, "mouse" or "touch", stays down."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        canvas = self.find("#drawing canvas")
        size = canvas.size["width"]
        (start, *rest) = [(round(size * (x - 0.5)), round(size * (y - 0.5))) for x, y in stroke]
        self.actions = ActionBuilder(self.browser, mouse=PointerInput(pointer, pointer), duration=30)
        self.actions.pointer_action.move_to(canvas, *start).pointer_down()
        for x, y in rest:
            self.actions.pointer_action.move_to(canvas, x, y)
        self.actions.perform()

    def lift(self):
        self.actions.clear_actions()

    def choose(self, model):
        self.find("input[aria-label=Model]").click()
        self.find(f"[role=option][aria-label={model}]").click()


def test_in_a_browser(browser, server):
    page = Page(browser)
    resize(browser, 1000, 575)
    browser.get(server)
    page.wait_for(demo.HINT)

    page.draw(ONE, "mouse")
    page.lift()
    untrained = page.find("#reading .bars b:not(:empty)").text
    page.choose(DEFAULT_MODEL)
    page.wait_for("digit 1, 1 + 5 = 6")
    assert page.find("#reading .bars b:not(:empty)").text != untrained
    page.find("#drawing button").click()
    page.wait_for(demo.HINT)

    page.draw(SEVEN, "mouse")
    page.wait_for("digit 7, 7 + 5 = 12")  # while the button is still down
    page.lift()
    if picture := os.environ.get("MNIST_SUM_SCREENSHOT"):
        time.sleep(2)  # until the last of the stroke has been read too
        browser.save_screenshot(picture)
    page.find("#number label:nth-of-type(9)").click()
    page.wait_for("digit 7, 7 + 8 = 15")
    page.find("#drawing button").click()
    page.wait_for(demo.HINT)
    assert not browser.find_elements("css selector", "#reading svg")

    resize(browser, 390, 844)
    page.draw(ONE, "touch")
    page.wait_for("digit 1, 1 + 8 = 9")
    page.lift()
    assert browser.execute_script(WIDTH) <= 390
    assert page.find("#drawing canvas").size["width"] > 300
    assert page.find("#reading .answer").location["y"] < 700  # to be seen below the canvas

    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    log = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        entry["params"]["request"]["url"] for entry in log if entry["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((LOOPBACK, "data:"))] == []


def test_without_flags_the_shipped_models_are_shown():
    arguments = demo.parse([])
    assert (arguments.port, arguments.checkpoint) == (7860, None)
    assert next(iter(demo.load_models(arguments.checkpoint or ()))) == DEFAULT_MODEL
