"""The page, also in a browser. MNIST_SUM_SCREENSHOT=assets/demo.png redraws the README's picture of it."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_sum import cli, predict
from mnist_sum.demo import __main__ as demo
from mnist_sum.models import WEIGHTS
from tests.tools.handwriting import strokes

page = pytest.importorskip("mnist_sum.demo.page", reason="needs the extra `demo`")
SHIPPED = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
SEVEN = (-76, -86), (76, -10), (69, -3), (-14, 41), (-31, 59), (-24, 51), (-17, 59)  # steps in pixels
PROGRAM = """import runpy, sys
sys.addaudithook(lambda event, args: event == "socket.getaddrinfo" and print(args, file=sys.stderr))
runpy.run_module("mnist_sum.demo", run_name="__main__")"""


def sheet(*lines: str) -> Image.Image:
    """A white page with a drawn digit or nothing in each square of 150 pixels."""
    image, rng = Image.new("RGB", (150 * len(lines[0]), 150 * len(lines)), "white"), np.random.default_rng(0)
    for place, digit in enumerate("".join(lines)):
        row, column = divmod(place, len(lines[0]))
        for stroke in strokes(int(digit), rng) if digit != " " else ():
            points = [(150 * (column + 0.5 + 0.6 * x), 150 * (row + 0.5 + 0.6 * y)) for x, y in stroke]
            ImageDraw.Draw(image).line(points, "black", 9, "curve")
    return image


def show(image: Image.Image, form: str = "png", name: str = "tiny") -> tuple[str, str]:
    """The page's boxes and prediction for a picture and the number 6."""
    image.save(file := io.BytesIO(), form)
    url = f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
    return page.page_html({name: predict.load(name, "cpu").model}, url, 6, name)


def words(markup: str) -> str:
    return " ".join(re.sub("<.*?>|[0-9.]+%", " ", markup, flags=re.S).split())


@pytest.mark.parametrize("name", SHIPPED)
def test_drawn_digit_has_its_sum_and_all_probabilities(name: str) -> None:
    boxes, markup = show(sheet("7"), name=name)
    assert (boxes, markup.count("<figure><img")) == ("", 3)
    assert words(markup).startswith("digit 7, 7 + 6 = 13 seen as 28 × 28 what the digit rests on what the")
    bars = [(int(label), float(share)) for label, share in re.findall(r'title="(\d+): ([\d.]+)%"', markup)]
    assert [max(part, key=lambda bar: bar[1])[0] for part in (bars[:10], bars[10:])] == [7, 13]


def test_several_digits_have_boxes_and_sums_in_reading_order() -> None:
    boxes, markup = show(sheet("274", "53 "))
    assert words(markup) == "5 digits Line 1 2 + 6 = 8 7 + 6 = 13 4 + 6 = 10 Line 2 5 + 6 = 11 3 + 6 = 9"
    places = [(int(x) // 150, int(y) // 150) for x, y in re.findall(r'x="(\d+)" y="(\d+)" width', boxes)]
    assert (words(boxes), places) == ("2 7 4 5 3", [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)])


def test_doubts_and_turning_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(content: bytes) -> object:
        found = page.read_page(content)
        doubtful = [replace(digit, doubt="perhaps no digit") for digit in found.digits]
        return replace(found, digits=doubtful, turned=turned)

    monkeypatch.setattr(page, "read", read)
    turned = 0
    shown = words("".join(show(sheet("73"))))
    assert shown == "7? 3? 2 digits 2 unsure Line 1 7 + 6 = 13 perhaps no digit 3 + 6 = 9 perhaps no digit"
    assert words(show(sheet("7"), "jpeg")[0]) == "7?"  # a photograph's only digit has a box, too
    turned = 90
    shown = words("".join(show(sheet("7"), "jpeg")))  # no boxes
    assert shown.startswith("digit 7, 7 + 6 = 13 perhaps no digit, turned by 90 degrees")


def test_hint_says_why_there_is_no_prediction() -> None:
    assert show(sheet(" "))[1].startswith('<div class="answer hint"')
    for image, hint in (("", page.HINT), ("no <image>", "no &lt;image&gt;")):
        assert hint in "".join(page.page_html({}, image, 6, "tiny"))


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((demo.LOCAL[0], 0)) as other, pytest.raises(cli.UserError, match="--port"):
        demo.main(["--port", str(other.getsockname()[1])])
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(cli.UserError, match=re.escape("install it with: pip install -e '.[demo]'")):
        demo.main([])


def test_container_and_own_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    made: list = []
    monkeypatch.setattr(predict, "load", lambda name, device, custom: type("", (), {"model": custom}))
    monkeypatch.setattr(page, "build_app", lambda models, hosts: made.extend([models, hosts]))
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: sockets[0].close())
    demo.main(["--host=0.0.0.0", "--port=0", "--checkpoint", "a/b.safetensors", "--model", "net.py:Net"])
    names = ["a/b.safetensors", "tiny", *sorted({*SHIPPED} - {"tiny"})]
    assert ([*made[0].items()], made[1]) == ([(name, ["net.py:Net"]) for name in names], ["*"])
    assert capsys.readouterr().err == "warning: everyone who can reach 0.0.0.0 can use the page\n"


def test_help_answers_without_torch(script: Callable) -> None:
    process = script("mnist_sum.demo", "--help", PYTHONPROFILEIMPORTTIME="1")
    assert "--checkpoint" in process.stdout
    assert not re.search(r"\| +(torch|numpy|gradio)$", process.stderr, re.M)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The page's address; the program must look for no other computer, and end quietly at Ctrl-C."""
    with Popen([sys.executable, "-c", PROGRAM, "--port=0"], stdout=PIPE, stderr=PIPE, text=True) as process:
        yield next(line for line in process.stdout or () if line.startswith("the page: ")).split()[2]
        process.send_signal(signal.SIGINT)
        assert (*process.communicate(timeout=20), process.returncode) == ("", "", 130)


def test_only_the_page_itself_gets_answers(server: str) -> None:
    for host, origin, status in (
        ("localhost:8888", "", 200),  # ssh -L 8888:localhost:7860
        ("127.0.0.1:1", "http://127.0.0.1:1", 200),
        ("evil.example", "http://evil.example", 400),  # a name whose address was changed to 127.0.0.1
        ("localhost:7860", "http://evil.example", 403),
        ("localhost:7860", "http://localhost:8888", 403),
        ("localhost:7860", "null", 403),  # a file, or a frame of another site
    ):
        headers, call = {"Host": host, "Origin": origin}, {"data": ["", 4, "tiny"], "fn_index": 0}
        assert httpx.get(server, headers=headers).status_code == status
        answer = httpx.post(f"{server}/gradio_api/run/predict", json=call, headers=headers)
        assert (answer.status_code, page.HINT in answer.text) == (status, status == 200)


def test_page_in_a_browser(server: str, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.common.actions.pointer_input import PointerInput
    from selenium.webdriver.support.ui import WebDriverWait

    if not (driver := shutil.which("chromedriver")):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.arguments.extend(["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"])
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    sheet("274", "53 ").save(tmp_path / "photo.jpg")

    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        browser.implicitly_wait(20)
        find = partial(browser.find_element, "css selector")

        def wait_for(answer: str) -> None:
            WebDriverWait(browser, 20).until(lambda _: find("#prediction").text.startswith(answer), answer)

        for width, height, pointer in ((1000, 690, "mouse"), (390, 844, "touch")):
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(server)
            wait_for(page.HINT)
            stroke = webdriver.ActionChains(browser, 30, [PointerInput(pointer, pointer)])
            stroke.move_to_element_with_offset(find("#drawing canvas"), *SEVEN[0]).click_and_hold()
            for step in SEVEN[1:]:
                stroke.move_by_offset(*step)
            stroke.pause(0.5).release().perform()
            wait_for("digit 7, 7 + 5 = 12")
            if "MNIST_SUM_SCREENSHOT" in os.environ and pointer == "mouse":
                browser.save_screenshot(os.environ["MNIST_SUM_SCREENSHOT"])
            find("#number label:nth-of-type(9)").click()
            wait_for("digit 7, 7 + 8 = 15")
            find("#drawing label:not(.camera) input").send_keys(str(tmp_path / "photo.jpg"))
            wait_for("5 digits")
            assert find("#boxes").text.split() == ["2", "7", "4", "5", "3"]
            assert find("#boxes svg").size == pytest.approx(find("#drawing canvas").size, abs=3)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            find("#drawing button").click()
            wait_for(page.HINT)

        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        log = [json.loads(entry["message"])["message"]["params"] for entry in browser.get_log("performance")]
        urls = {entry["request"]["url"] for entry in log if "request" in entry}
        assert all(url.startswith((server, "data:")) for url in urls)
