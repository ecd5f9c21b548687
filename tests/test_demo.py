"""The demo: what the page shows of a drawing or a photograph, and the page itself in a real browser.

MNIST_SUM_SCREENSHOT=FILE.png saves how the page looks on a desktop with a digit drawn:
MNIST_SUM_SCREENSHOT=assets/demo.png python -m pytest tests/test_demo.py
"""

import base64
import importlib.util
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
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import torch
from handwriting import drawn, strokes
from PIL import Image, ImageDraw

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


def data_url(image, form="png"):
    """What the page sends for the drawing, or as "jpeg" for the photograph."""
    file = io.BytesIO()
    image.save(file, form, quality=90)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def sheet(lines, size=150, rng=None):
    """A white page with a drawn digit or nothing in each square of that many pixels; lines: ["17", " 4"]."""
    page = Image.new("RGB", (size * max(map(len, lines)), size * len(lines)), "white")
    draw, rng = ImageDraw.Draw(page), rng or np.random.default_rng(0)
    for row, line in enumerate(lines):
        for column, digit in enumerate(line):
            for stroke in strokes(int(digit), rng) if digit != " " else ():
                points = [(size * (column + 0.5 + 0.6 * x), size * (row + 0.5 + 0.6 * y)) for x, y in stroke]
                draw.line(points, "black", round(0.06 * size), "curve")
    return page


def words(markup):
    return " ".join(re.sub("<.*?>", " ", markup).split())


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
        boxes, markup = page.page_html(models[name], data_url(image), 4)
        assert boxes == ""
        assert re.sub("<.*?>", "", markup).startswith(f"digit {digit}, {digit} + 4 = {digit + 4}"), name
        bars = [(int(label), float(x)) for label, x in re.findall(r'title="(\d+): ([\d.]+)%"', markup)]
        for part, classes, predicted in ((bars[:10], 10, digit), (bars[10:], 19, digit + 4)):
            assert [label for label, _ in part] == list(range(classes))
            assert sum(percent for _, percent in part) == pytest.approx(100, abs=1)
            assert max(part, key=lambda bar: bar[1])[0] == predicted
        assert markup.count("<rect") == (images.prepare(image) > 0).sum()
        assert markup.count("<figure") == 3 and page.MAP_LEGEND in words(markup)


def test_maps_cover_what_lowers_the_probability_of_digit_and_sum(models, monkeypatch):
    maps = torch.zeros(28, 28), torch.zeros(28, 28)
    maps[0][3, 5], maps[1][27, 0], maps[1][1, 1] = 9, 9, -9
    monkeypatch.setattr(page, "occlusion_maps", lambda model, pixels, number: maps)
    _, markup = page.page_html(models[DEFAULT_MODEL], data_url(sheet("7")), 4)
    assert re.findall(r'<path d="(.*?)"', markup) == ["M5 3h1v1h-1z", "M0 27h1v1h-1z"]


def test_several_digits_have_boxes_and_sums_in_reading_order(models):
    boxes, markup = page.page_html(models[DEFAULT_MODEL], data_url(sheet(["274", "53"])), 6)
    expected = "5 digits Line 1 2 + 6 = 8 7 + 6 = 13 4 + 6 = 10 Line 2 5 + 6 = 11 3 + 6 = 9"
    assert re.sub(r" [\d.]+%", "", words(markup)) == expected
    assert words(boxes) == "2 7 4 5 3" and 'viewBox="0 0 450 300"' in boxes
    places = re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', boxes)
    squares = [(0, 0), (150, 0), (300, 0), (0, 150), (150, 150)]
    for (x, y), (left, top, width, height) in zip(
        squares, [map(int, place) for place in places], strict=True
    ):
        assert x < left < left + width < x + 150 and y < top < top + height < y + 150


def test_a_single_digit_of_a_photograph_has_a_box(models):
    boxes, markup = page.page_html(models[DEFAULT_MODEL], data_url(sheet("7"), "jpeg"), 6)
    assert words(boxes) == "7" and words(markup).startswith("digit 7, 7 + 6 = 13")


@pytest.mark.parametrize("line", [" ", " 3"])
def test_what_is_no_digit_has_a_word_of_doubt(line, models):
    picture = sheet([line])
    scribble = [(25 + 100 * (i % 2), 25 + 16 * i) for i in range(7)]
    ImageDraw.Draw(picture).line(scribble, "black", 9, "curve")
    boxes, markup = page.page_html(models[DEFAULT_MODEL], data_url(picture, "jpeg"), 6)
    assert markup.count("perhaps no digit") == 1 and boxes.count("unsure") == 1
    assert re.fullmatch(r"\d\?" + line.rstrip(), words(boxes))


def test_no_folder_is_left_where_building_the_page_is_interrupted(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    from mnist_sum.demo import server

    def made_and_interrupted(_models):
        Path(os.environ["GRADIO_TEMP_DIR"], "history").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(server, "build_page", made_and_interrupted)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(KeyboardInterrupt):
        server.build_gradio_app({})
    assert not list(tmp_path.iterdir())


def test_page_says_why_there_is_no_prediction(models):
    blank = Image.new("RGB", (320, 320), "white")
    for url, hint in (
        ("", page.HINT),
        (data_url(blank), "nothing stands out"),
        ("data:image/png;base64,AA==", "not a PNG"),
        ("no image", "no image that your browser can show"),
        (page.DRAWING + "no base64", "no image that your browser can show"),
    ):
        boxes, markup = page.page_html(models[DEFAULT_MODEL], url, 4)
        assert boxes == ""
        assert re.search(f'class="hint">[^<]*{hint}[^<]*<', markup)
        assert "=" not in re.sub("<.*?>", "", markup)
        assert "<svg" not in markup


def test_port_in_use_is_one_line_that_names_the_flag():
    with socket.create_server((demo.HOST, 0)) as other, pytest.raises(UserError, match="--port"):
        demo.listen(other.getsockname()[1])


def test_missing_gradio_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install -e '.[demo]'")):
        demo.main([])


def start(folder, *flags, python=()):
    """Start the demo in the folder; a sitecustomize.py in it is run before anything else."""
    return subprocess.Popen(
        [sys.executable, *python, "-m", "mnist_sum.demo", *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # else ignored in the background
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


@pytest.fixture(scope="module")
def server(own, tmp_path_factory):
    """The address of the page, with a model of one's own.

    The server is stopped with Ctrl-C, and must have connected to this machine alone and written no file.
    """
    tmp_path = tmp_path_factory.mktemp("server")
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
        written = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert written == {"sitecustomize.py"}
    finally:
        process.kill()
        process.communicate()


def ask(server, path, body=None, **headers):
    """(status, headers, body) of a request to the page, with these headers besides or in place of its own."""
    connection = HTTPConnection(server.removeprefix("http://"), timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")


CALL = "/gradio_api/run/predict"


def call(*data):
    return json.dumps({"data": data, "fn_index": 0})


@pytest.mark.parametrize(
    "headers",
    [
        *[
            {"Host": host}
            for host in ("evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", "")
        ],
        *[{"Origin": origin} for origin in ("http://evil.example", "null", "http://127.0.0.1")],
        *[{"Sec_Fetch_Site": site} for site in ("cross-site", "same-site")],
    ],
)
def test_no_other_site_gets_an_answer_of_the_page(headers, server):
    for path, body in (("/", None), (CALL, call(data_url(sheet("7")), 4, DEFAULT_MODEL))):
        status, answered, text = ask(server, path, body, **headers)
        assert status == 403 and text.startswith("refused: ") and len(text) < 100
        assert not any(name.lower().startswith(("access-control", "server")) for name in answered)


def test_the_page_has_its_own_requests_and_no_other(server):
    for host in (
        server.removeprefix("http://"),
        server.removeprefix("http://").replace("127.0.0.1", "localhost"),
    ):
        status, headers, text = ask(server, "/", Host=host, Origin=f"http://{host}")
        assert (
            status == 200
            and "gradio" in text
            and "frame-ancestors 'none'" in headers["content-security-policy"]
        )
    others = "upload upload_progress info queue/join queue/data heartbeat/1 file=/etc/passwd reset call/show"
    paths = [f"/gradio_api/{name}" for name in others.split()]
    for path in (*paths, "/openapi.json", "/docs", "/config", "/login", "/assets/../../../app.py", "/x"):
        for body in (None, "{}"):
            assert ask(server, path, body)[0] in (404, 405), path


def test_a_mistyped_call_is_refused_and_the_next_is_answered(server):
    image = data_url(sheet("7"))
    for body in (
        *("", "{", "[]", "null", "1e999", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass"), b"\xff"),
        *(call(), call(image, 4), call(image, 4, DEFAULT_MODEL, 1), call(image, 4, "no model")),
        *(call(image, number, DEFAULT_MODEL) for number in (-1, 10, 10**400, 1.5, "4", None, [4], True)),
        *(call(other, 4, DEFAULT_MODEL) for other in (None, 4, ["x"], {"path": "/etc/passwd"})),
    ):
        assert ask(server, CALL, body)[0] == 400, body[:80]
    assert ask(server, CALL, b" " * 12_000_001)[0] == 413
    many = {**json.loads(call(image, 4, DEFAULT_MODEL)), "event_data": [[]] * 2000}
    assert ask(server, CALL, json.dumps(many))[0] == 400
    status, _, text = ask(server, CALL, call(image, 4, DEFAULT_MODEL))
    assert status == 200 and "digit 7, 7 + 4 = 11" in words(json.loads(text)["data"][1])


@pytest.mark.parametrize("path", ["/", "/x", CALL])
@pytest.mark.parametrize("pause", [0, 0.2])
def test_a_body_that_is_no_http_ends_the_connection_and_says_nothing(path, pause, server):
    """Neither a second answer nor, as the server's end shows, a traceback."""
    host = server.removeprefix("http://")
    with socket.create_connection(host.split(":"), timeout=20) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        time.sleep(pause)
        connection.sendall(b"no size\r\n")
        answer = connection.makefile("rb").read()
    assert answer.count(b"HTTP/1.1") <= 1 and b"Invalid" not in answer
    assert ask(server, "/")[0] == 200


@pytest.fixture(scope="module")
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


def draw_several(browser, pointer):
    """Draw a 1 and a 7 side by side, and a 7 below."""
    for stroke, left, top in ((ONE, 0, 0), (SEVEN, 0.45, 0.03), (SEVEN, 0.2, 0.5)):
        draw(browser, [(left + 0.5 * x, top + 0.5 * y) for x, y in stroke], pointer)()


def shown(browser, part):
    """The words in a part of the page, without percentages."""
    text = browser.find_element("css selector", part).text
    return " ".join(re.sub(r"[\d.]+%", "", text).split())


def test_page_in_a_browser(browser, server):
    find = partial(browser.find_element, "css selector")
    resize(browser, 1000, 690)
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

    for width, pointer in ((1000, "mouse"), (390, "touch")):
        resize(browser, width, 844)
        draw_several(browser, pointer)
        wait_for(browser, "3 digits")
        assert shown(browser, "#prediction") == "3 digits Line 1 1 + 8 = 9 7 + 8 = 15 Line 2 7 + 8 = 15"
        assert shown(browser, "#boxes") == "1 7 7"
        assert browser.execute_script(WIDTH) <= width
        find("#drawing button").click()
        wait_for(browser, page.HINT)
        assert "<svg" not in find("#boxes").get_attribute("innerHTML")

    release = draw(browser, ONE, "touch")
    wait_for(browser, "digit 1, 1 + 8 = 9")
    release()
    assert browser.execute_script(WIDTH) <= 390
    assert find("#drawing canvas").size["width"] > 300
    assert find("#prediction .answer").location["y"] < 700  # to be seen below the canvas
    check_log(browser, server)


# Drop a file on the page; the argument: its content as base64. Returns whether the page took it.
DROP = """
const content = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([content], "dropped.png", {type: "image/png"}));
const drop = new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
return !document.querySelector("#prediction").dispatchEvent(drop);
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_photograph_in_a_browser(width, browser, server, tmp_path):
    find = partial(browser.find_element, "css selector")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: to be shown, it is turned clockwise
    photograph = sheet(["274", "53"], size=800)
    photograph.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    resize(browser, width, 844)
    browser.get(server)
    wait_for(browser, page.HINT)
    find("input[aria-label=Model]").click()
    find(f"[role=option][aria-label={DEFAULT_MODEL}]").click()

    file = find("#drawing label:not(.camera) input")
    file.send_keys(str(tmp_path / "turned.jpg"))
    wait_for(browser, "5 digits")
    assert shown(browser, "#boxes") == "2 7 4 5 3"
    assert find("#drawing canvas").get_property("width") == 2000  # scaled down
    assert find("#drawing canvas").get_property("height") == 1334
    boxes, canvas = find("#boxes svg").rect, find("#drawing canvas").rect
    for side in ("x", "y", "width", "height"):
        assert boxes[side] == pytest.approx(canvas[side], abs=3)
    assert browser.execute_script(WIDTH) <= width
    draw(browser, ONE, "mouse")()  # nothing is drawn on a photograph
    find("#drawing button").click()
    wait_for(browser, page.HINT)

    release = draw(browser, SEVEN, "mouse")
    wait_for(browser, "digit 7, 7 + 5 = 12")
    release()
    assert find("#boxes").text == ""
    assert browser.execute_script(DROP, data_url(sheet(["26"])).partition(",")[2])
    wait_for(browser, "2 digits")
    assert shown(browser, "#boxes") == "2 6"
    file.send_keys(str(tmp_path / "broken.jpg"))
    wait_for(browser, page.NO_IMAGE)
    check_log(browser, server)


def check_log(browser, server):
    """Nothing failed in the browser, and everything came from the server's own address."""
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    log = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [entry["params"] for entry in log if entry["method"] == "Network.requestWillBeSent"]
    urls = [request["request"]["url"] for request in requests]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith((server, "data:"))] == []
