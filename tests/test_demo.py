"""The demo: what the page shows of a drawing, and the page itself in a real browser.

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
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from handwriting import drawn
from PIL import Image

from mnist_sum import images
from mnist_sum.console import UserError
from mnist_sum.demo import __main__ as demo
from mnist_sum.demo import page
from mnist_sum.models import WEIGHTS
from mnist_sum.recipes import DEFAULT_MODEL, RECIPES
from mnist_sum.runs import checkpoint
from mnist_sum.training import new_state

ROOT = Path(__file__).resolve().parent.parent
SEVEN = [(0.28, 0.25), (0.5, 0.22), (0.7, 0.21), (0.66, 0.33), (0.57, 0.5), (0.5, 0.65), (0.45, 0.82)]
ONE = [(0.54, 0.2), (0.52, 0.4), (0.5, 0.6), (0.48, 0.8)]

# How wide the page would have to be to show all: what sticks out may be scrolled to or cut off.
WIDTH = """
const edges = [...document.querySelectorAll("main *")].map(part => part.getBoundingClientRect().right);
return Math.max(document.documentElement.scrollWidth, ...edges);
"""

# Python runs a sitecustomize before anything else: this one reports every connection to elsewhere.
AUDIT = """
import sys
def audit(event, values):
    host = {"socket.connect": lambda: values[1][0], "socket.getaddrinfo": lambda: values[0]}.get(event)
    if host and host() not in ("127.0.0.1", "localhost"):
        print("outside:", event, host(), file=sys.stderr, flush=True)
sys.addaudithook(audit)
"""


def data_url(image):
    """What the page sends for the drawing."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture(scope="module")
def own(few, tmp_path_factory):
    """The path of the checkpoint of a model of one's own, not yet trained."""
    path = tmp_path_factory.mktemp("own") / "checkpoint.safetensors"
    state = new_state("tiny", RECIPES["tiny"], 0, torch.device("cpu"), "fp32")
    checkpoint.save(path, state, checkpoint.describe_data(few))
    return str(path)


@pytest.fixture(scope="module")
def models(own):
    return demo.load_models([own])


def test_own_models_are_listed_first_then_the_default_then_all_that_ship(own, models):
    shipped = {path.stem for path in WEIGHTS.glob("*.safetensors")}
    assert list(models) == [own, DEFAULT_MODEL, *sorted(shipped - {DEFAULT_MODEL})]


@pytest.mark.parametrize("digit", [1, 7])
def test_page_shows_prediction_probabilities_and_input_of_every_shipped_model(models, digit):
    image = drawn(digit, np.random.default_rng(digit))
    for name in list(models)[1:]:
        markup = page.prediction_html(models[name], data_url(image), 4)
        assert re.sub("<.*?>", "", markup).startswith(f"digit {digit}, {digit} + 4 = {digit + 4}"), name
        bars = [(int(label), float(x)) for label, x in re.findall(r'title="(\d+): ([\d.]+)%"', markup)]
        for part, classes, predicted in ((bars[:10], 10, digit), (bars[10:], 19, digit + 4)):
            assert [label for label, _ in part] == list(range(classes))
            assert sum(percent for _, percent in part) == pytest.approx(100, abs=1)
            assert max(part, key=lambda bar: bar[1])[0] == predicted
        assert markup.count("<rect") == (images.prepare(image) > 0).sum()


def test_page_says_why_there_is_no_prediction(models):
    blank = Image.new("RGB", (320, 320), "white")
    two_digits = Image.fromarray(np.tile(drawn(4, np.random.default_rng(4)), (1, 2, 1)))
    for url, hint in (
        ("", page.HINT),
        (data_url(blank), "nothing stands out"),
        (data_url(two_digits), "more than one"),
        ("data:image/png;base64,AA==", "not a PNG"),
    ):
        markup = page.prediction_html(models[DEFAULT_MODEL], url, 4)
        assert re.search(f'class="hint">[^<]*{hint}[^<]*<', markup)
        assert "=" not in re.sub("<.*?>", "", markup)
        assert "<svg" not in markup


def test_port_in_use_is_one_line_that_names_the_flag():
    with socket.create_server((demo.HOST, 0)) as other, pytest.raises(UserError, match="--port"):
        demo.listen(other.getsockname()[1])


def test_missing_gradio_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install -e '.[demo]'")):
        demo.main([])


def start(folder, *flags, python=()):
    """Start the demo in the folder; a sitecustomize.py in it is run before anything else."""
    return subprocess.Popen(
        [sys.executable, *python, "-m", "mnist_sum.demo", *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("flag", ["--port=65536", "--port=x", "--nosuch", "--checkpoint="])
def test_usage_error_exits_with_2_and_one_line(flag, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        demo.main([flag])
    assert "python -m mnist_sum.demo: error: " in capsys.readouterr().err.splitlines()[-1]


def test_help_answers_without_importing_torch(tmp_path):
    process = start(tmp_path, "--help", python=("-X", "importtime"))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "--checkpoint" in output
    assert re.search(r"\| +argparse$", errors, re.M)
    assert not re.search(r"\| +(torch|numpy|gradio)$", errors, re.M)


@pytest.fixture
def server(own, tmp_path):
    """The address of the page, with a model of one's own.

    The server is stopped with Ctrl-C, and must have connected to this machine alone.
    """
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    (tmp_path / "sitecustomize.py").write_text(AUDIT)
    process = start(tmp_path, "--port", "0", "--checkpoint", own)
    try:
        line = next((line for line in process.stdout if line.startswith("the page: ")), None)
        assert line, process.stderr.read()
        yield line.split()[2]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "outside:" not in errors and "Traceback" not in errors, errors
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
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses root
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        browser.implicitly_wait(20)
        yield browser


def resize(browser, width, height):
    size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait_for(browser, answer):
    deadline = time.monotonic() + 20
    script = "return document.querySelector('#prediction .answer')?.innerText"
    while (shown := browser.execute_script(script)) != answer:
        assert time.monotonic() < deadline, f"{shown!r} instead of {answer!r}"
        time.sleep(0.05)


def draw(browser, stroke, pointer):
    """Press and move; the pointer, "mouse" or "touch", stays down until the returned function is called."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    canvas = browser.find_element("css selector", "#drawing canvas")
    size = canvas.size["width"]
    (start, *rest) = [(round(size * (x - 0.5)), round(size * (y - 0.5))) for x, y in stroke]
    actions = ActionBuilder(browser, mouse=PointerInput(pointer, pointer), duration=30)
    actions.pointer_action.move_to(canvas, *start).pointer_down()
    for x, y in rest:
        actions.pointer_action.move_to(canvas, x, y)
    actions.perform()
    return actions.clear_actions


def test_page_in_a_browser(browser, server):
    find = partial(browser.find_element, "css selector")
    resize(browser, 1000, 575)
    browser.get(server)
    wait_for(browser, page.HINT)

    release = draw(browser, ONE, "mouse")
    release()
    untrained = find("#prediction .bars b:not(:empty)").text
    find("input[aria-label=Model]").click()
    find(f"[role=option][aria-label={DEFAULT_MODEL}]").click()
    wait_for(browser, "digit 1, 1 + 5 = 6")
    assert find("#prediction .bars b:not(:empty)").text != untrained
    find("#drawing button").click()
    wait_for(browser, page.HINT)

    release = draw(browser, SEVEN, "mouse")
    wait_for(browser, "digit 7, 7 + 5 = 12")  # while the button is still down
    release()
    if picture := os.environ.get("MNIST_SUM_SCREENSHOT"):
        time.sleep(2)  # until the last of the stroke has been predicted too
        browser.save_screenshot(picture)
    find("#number label:nth-of-type(9)").click()
    wait_for(browser, "digit 7, 7 + 8 = 15")
    find("#drawing button").click()
    wait_for(browser, page.HINT)
    assert "<svg" not in find("#prediction").get_attribute("innerHTML")

    resize(browser, 390, 844)
    release = draw(browser, ONE, "touch")
    wait_for(browser, "digit 1, 1 + 8 = 9")
    release()
    assert browser.execute_script(WIDTH) <= 390
    assert find("#drawing canvas").size["width"] > 300
    assert find("#prediction .answer").location["y"] < 700  # to be seen below the canvas

    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    log = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [entry["params"] for entry in log if entry["method"] == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in requests]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith((server, "data:"))] == []
