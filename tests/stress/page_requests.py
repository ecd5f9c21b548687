"""Requests of all kinds to the page's server, which runs in a process of its own, as users start it.

"Caught" is a refusal (4xx, a closed connection, or a redirect without content to the page itself),
"harmless" what the page asks for, rightly answered. "Lost" is everything else, and what takes above SECONDS,
leaves a file or keeps the next call from its answer. Memory may grow by 50 MB and 1.5 times the request, for
an image by what a call with the largest takes besides. The last case is Ctrl-C.
"""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, namedtuple
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from foreign_images import good_files, metadata_added, pixels_changed
from forks import ROOT
from PIL import Image, ImageDraw
from signals import as_in_foreground
from verdict import MEMORY, mutated, report

from mnist_sum.demo.page import DRAWING, HINT, PHOTOGRAPH
from mnist_sum.demo.server import CALL, LARGEST
from mnist_sum.demo.server import SECONDS as SLOWEST
from mnist_sum.recipes import DEFAULT_MODEL

SECONDS = 10  # at most for an answer; of an image the server's own time, as other programs may run
PAGES = ("/", "/theme.css", "/favicon.ico", "/manifest.json")
REFUSED = ("caught",)
OWN = ("harmless",)
EITHER = REFUSED + OWN  # of requests that are unusual, but the page's own
LEFT = None  # the connection is closed before there is an answer

# What is sent: bytes and, between them, seconds to wait. may: REFUSED, OWN, EITHER or LEFT. fits: whether
# the text of an answer with status 200 is right. methods: of the requests in it.
Case = namedtuple("Case", "sent may fits methods image seconds", defaults=(("GET",), False, SECONDS))


def ask_the_page(draw, cases, scratch):
    counts, page = Counter(), Page(scratch)
    try:
        page.ask(largest_image(page))
        need = page.status("VmHWM") - page.held
        for _ in range(cases - 1):
            counts[page.verdict(draw.choice(KINDS)(draw, page), need)] += 1
        counts[page.end()] += 1
    finally:
        page.process.kill()
        page.process.communicate()
    return counts


class Page:
    """The server, in an empty folder for temporary files, and what becomes of requests to it."""

    def __init__(self, scratch):
        self.folder, self.stderr = scratch / "temporary", scratch / "stderr"
        self.folder.mkdir()
        self.read = 0
        environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mnist_sum.demo", "--port", "0"], cwd=scratch, stdout=subprocess.PIPE,
            stderr=self.stderr.open("w"), env={**os.environ, **environment}, text=True,
            preexec_fn=as_in_foreground,
        )  # fmt: skip
        line = next((line for line in self.process.stdout if line.startswith("the page: ")), None)
        if not line:
            sys.exit(f"the page does not start: {self.said()}")
        self.port = int(line.split()[2].rpartition(":")[2])
        self.host = f"127.0.0.1:{self.port}"

    def said(self):
        """What is on its stderr since the last time."""
        text = self.stderr.read_text("utf-8", "replace")
        new, self.read = text[self.read :], len(text)
        return new

    def status(self, name):
        """Bytes of its memory: VmRSS now, VmHWM at most."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) << 10

    def spent(self):
        """Seconds of a processor that it has used."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")

    def ask(self, case):
        """All that is answered until the connection is closed; sets held, the memory before, and seconds."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        self.held, began, spent = self.status("VmRSS"), time.monotonic(), self.spent()
        patience = case.seconds * (6 if case.image else 1)
        answered = b""
        with socket.create_connection(("127.0.0.1", self.port), patience) as connection:
            try:
                for part in case.sent:
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    else:
                        time.sleep(part)
            except (ConnectionError, TimeoutError):
                pass  # it may be refused before all of it is sent
            try:
                while case.may is not LEFT and (part := connection.recv(1 << 16)):
                    answered += part
            except ConnectionError:
                pass
            except TimeoutError:
                answered += b"nothing more in time"
        self.seconds = self.spent() - spent if case.image else time.monotonic() - began
        return answered

    def verdict(self, case, need):
        """What becomes of the case, and of the call after it. need: bytes for the largest image."""
        sent = b"".join(part for part in case.sent if isinstance(part, bytes))
        evidence = f"{sent[:1500]} ... {sent[1500:][-100:]}, {len(sent):,} bytes"
        answered, wrong = self.ask(case), []
        if self.process.poll() is not None:
            sys.exit(f"the server has ended: {self.said()}\n{evidence}")
        end, more = self.judged(case, answered), self.status("VmHWM") - self.held - case.image * need
        if end not in (case.may or REFUSED):
            wrong.append(f"{end} {answered[:700]}")
        if self.seconds > case.seconds:
            wrong.append(f"{self.seconds:.1f} s")
        if more > MEMORY * 2**20 + 1.5 * len(sent):
            wrong.append(f"{more >> 20} MB")
        if left := os.listdir(self.folder):
            wrong.append(f"left: {left}")
        if self.judged(hint(self), self.ask(hint(self))) != "harmless":
            wrong.append("the next call is not answered")
        if said := self.said():
            return report("tracebacks", f"{said[-1500:]}\n{wrong} {evidence}")
        return report("lost", f"{wrong}: {evidence}") if wrong else end

    def judged(self, case, answered):
        """ "caught", "harmless" or what is wrong with the answers, which are in the order of the methods."""
        ends, file = [], Answered(answered)
        for method in case.methods:
            answer = http.client.HTTPResponse(file, method=method)
            if file.tell() == len(answered):
                ends.append("caught")  # the connection is closed
                continue
            try:
                answer.begin()
                ends.append(self.kind(case, method, answer, answer.read()))
            except http.client.HTTPException as error:
                return repr(error)
        if rest := file.read():
            return f"another answer: {rest[:200]}"
        return min(ends, key=(*EITHER, *ends).index) if {*ends} <= {*EITHER} else str(ends)

    def kind(self, case, method, answer, text):
        names = {name.lower() for name in answer.headers}
        if "server" in names or any(name.startswith("access-control-") for name in names):
            return f"headers {sorted(names)}"
        if 400 <= answer.status < 500:
            return "caught" if len(text) < 100 and b"\n" not in text else "a long refusal"
        if answer.status == 307 and not text:
            target = answer.headers["location"]
            return "caught" if re.match(rf"http://(127\.0\.0\.1|localhost):{self.port}/", target) else target
        if answer.status != 200 or "content-security-policy" not in names:
            return f"status {answer.status}"
        if method == "HEAD" and not text or case.fits and case.fits(text.decode("utf-8", "replace")):
            return "harmless"
        return "another content"

    def end(self):
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=20)
        left = (self.process.returncode, output, self.said(), os.listdir(self.folder))
        return "harmless" if left == (130, "", "", []) else report("lost", f"at its end: {left}")


class Answered(io.BytesIO):
    """What a connection has answered, for http.client: a socket of which one answer after another is read."""

    def makefile(self, mode):
        return self

    def close(self):
        pass


# What is asked.


def request(page, path="/", method=None, body=b"", host=None, headers=(), close=True):
    """One request in HTTP/1.1; host: the text of the header, or None for the right one."""
    method = method or ("POST" if path == CALL else "GET")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or page.host}", *headers]
    lines += [f"Content-Length: {len(body)}"] * bool(body) + ["Connection: close"] * close
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def call(image, number=4, name=DEFAULT_MODEL):
    return json.dumps({"data": [image, number, name], "fn_index": 0, "session_hash": "x"}).encode()


def is_page(text):
    """Whether it is the page, or one of the files for it, as gradio made them for no other host."""
    return len(text) > 0 and "evil" not in text


def shows(said, text):
    """Whether an answer to a call has HTML with what is said, a regular expression, in its one line."""
    try:
        boxes, markup = json.loads(text)["data"]
    except ValueError:
        return False
    line = re.match('<div class="answer" role="status">(.*?)</div>', markup)
    return boxes[:4] in ("", "<svg") and bool(line and re.fullmatch(said, re.sub("<.*?>", "", line[1])))


ANSWER = r"digit \d, \d \+ 4 = \d+|\d+ digits(, \d+ unsure)?"
LINE = r"[^=\n]{10,200}"  # why there is none


def hint(page):
    return Case([request(page, CALL, body=call(""))], OWN, partial(shows, re.escape(HINT)), ("POST",))


def data_url(image, kind="PNG", start=DRAWING):
    file = io.BytesIO()
    image.save(file, kind)
    return start + base64.b64encode(file.getvalue()).decode()


def seven(size):
    image = Image.new("RGB", (size, size), "white")
    points = [(0.3 * size, 0.22 * size), (0.7 * size, 0.22 * size), (0.43 * size, 0.8 * size)]
    ImageDraw.Draw(image).line(points, "black", round(0.07 * size), "curve")
    return image


def largest_image(page):
    body = call(data_url(seven(7071), "JPEG", PHOTOGRAPH))
    return Case([request(page, CALL, body=body)], OWN, partial(shows, "digit 7.*"), ("POST",), True)


def hosts(draw, page):
    """Other host names, as with DNS rebinding, several, none, and whole addresses in the request line."""
    port, own = page.port, (page.host, f"localhost:{page.port}")
    others = (
        "evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"localtest.me:{port}",
        "null", f"localhost.evil.example:{port}", f"evil.example@127.0.0.1:{port}",
        f"127.0.0.1:{port}@evil.example", "*", "127.0.0.1", "localhost", "127.0.0.1:1", "localhost:80",
        f"127.0.0.1:0{port}", f"127.0.0.1:{port}0", "[", f"LOCALHOST:{port}", f"localhost.:{port}",
        f"127.0.0.1.:{port}", f"[::1]:{port}", f"0.0.0.0:{port}", "%", f"[::ffff:127.0.0.1]:{port}",
        f"127.1:{port}", f"2130706433:{port}", f"0x7f.1:{port}", f":{port}", "\xe9",
        f"127.0.0.1:{port}, evil.example", f"127.0.0.1 :{port}", f"http://127.0.0.1:{port}", "a" * 5000,
        f"xn--lcalhost-54a:{port}", f"127.0.0.1:{port}/", f"127.0.0.1:{port}?",
    )  # fmt: skip
    path = draw.choice((*PAGES, CALL))
    body = call("") if path == CALL else b""
    fits = partial(shows, re.escape(HINT)) if body else is_page
    method = "POST" if body else "GET"
    what = draw.choice(("own", "other", "other", "other", "several", "none", "older", "address"))
    if what == "own":
        return Case([request(page, path, body=body, host=draw.choice(own))], OWN, fits, (method,))
    if what == "other":
        return Case([request(page, path, body=body, host=draw.choice(others))], REFUSED, None, (method,))
    if what == "several":
        two = draw.choice(((own[0], draw.choice(others)), (draw.choice(others), own[0]), own, own[:1] * 2))
        whole = request(page, path, body=body, host=two[0], headers=[f"Host: {two[1]}"])
        return Case([whole], REFUSED, None, (method,))
    if what == "address":
        host, may = draw.choice(((page.host, EITHER), *((other, REFUSED) for other in others[:8])))
        path = draw.choice(("http", "https", "HTTP", "ws", "file", "")) + f"://{host}{path}"
        return Case([request(page, path, method, body)], may, fits, (method,))
    whole = request(page, path, body=body).replace(f"Host: {page.host}\r\n".encode(), b"")
    older = draw.choice((b"HTTP/1.0", b"HTTP/1.1", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9"))
    return Case([whole.replace(b"HTTP/1.1", older) if what == "older" else whole], REFUSED, None, (method,))


def sites(draw, page):
    """What a browser says of the site that asks, and what proxies say; the host is right."""
    path = draw.choice((*PAGES, CALL))
    body = call("") if path == CALL else b""
    own = f"http://{page.host}"
    origins = (
        "null", "http://evil.example", f"http://evil.example:{page.port}", f"https://{page.host}", page.host,
        "*", f"http://localhost:{page.port}", own + "/", own.upper(), f"{own} http://evil.example", "file://",
        "\xe9", "http://127.0.0.1", "http://127.0.0.1:1", own + ".evil.example", "chrome-extension://a", "",
    )  # fmt: skip
    foreign = [f"Origin: {draw.choice(origins)}", f"Sec-Fetch-Site: {draw.choice(SITES)}"]
    harmless = (
        f"Origin: {own}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Cookie: a=evil; " * 90,
        "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: evil", "Forwarded: host=evil.example",
        "X-Forwarded-Prefix: /evil", "X-Gradio-Server: http://evil.example", "X-Original-URL: /evil",
        "Referer: http://evil.example/", "Content-Type: text/plain", "Range: bytes=0-9,5-9,3-4",
        "Expect: evil", "Access-Control-Request-Private-Network: true", "Accept-Encoding: gzip",
        "If-None-Match: *",
    )  # fmt: skip
    headers = draw.sample(harmless, draw.choice((1, 2, 5)))
    may = OWN
    if draw.random() < 0.6:
        headers, may = headers + draw.sample(foreign, draw.choice((1, 1, 2))), REFUSED
        draw.shuffle(headers)
    fits = partial(shows, re.escape(HINT)) if body else is_page
    return Case([request(page, path, body=body, headers=headers)], may, fits, ("POST" if body else "GET",))


SITES = ("cross-site", "same-site", "same-origin, cross-site", "CROSS-SITE", "", "evil", "\xe9")


def methods(draw, page):
    path = draw.choice((*PAGES, CALL, f"/{draw.choice(STATIC)}", "*", ""))
    method = draw.choice(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
                          "PRI", "get", "GETT", "A" * 3000, "G-T", "M-SEARCH", "*", "PROPFIND"))  # fmt: skip
    body = call("") if method == "POST" and path == CALL else draw.choice((b"", b"x" * 1000))
    headers = draw.choice(((), (f"Origin: http://{page.host}", "Access-Control-Request-Method: POST")))
    if path == CALL and method == "POST":
        return Case([request(page, path, method, body)], OWN, partial(shows, re.escape(HINT)), (method,))
    may = {"GET": OWN, "HEAD": EITHER} if path.startswith("/") and path != CALL else {}
    known = (method if path else "GET",)  # of a line without a path it is not known, and that is said in full
    return Case([request(page, path, method, body, None, headers)], may.get(method, REFUSED), is_page, known)


FRONTEND = Path(find_spec("gradio").origin).parent / "templates" / "frontend"
STATIC = [path.relative_to(FRONTEND).as_posix() for path in sorted(FRONTEND.glob("static/**/*.*"))]


def paths(draw, page):
    """Paths of gradio's and of others, out of the folders, and long ones."""
    if draw.random() < 0.15:
        path = draw.choice((*PAGES, f"/{draw.choice(STATIC)}"))
        path += draw.choice(("", "?evil", "?" + "&" * 9000))
        return Case([request(page, path)], OWN, is_page)
    path = draw.choice(GRADIO)
    if draw.random() < 0.6:
        path = draw.choice(("/", "/static", "/assets", "/gradio_api", "/static/fonts", "/assets/x"))
        for _ in range(draw.choice((1, 1, 2, 4, 9))):
            path += draw.choice(("/", "/", "%2f", "\\", "%5c", "//")) + draw.choice(STEPS)
        path += draw.choice(("", "", "/etc/passwd", "/templates/frontend/index.html", "//etc/passwd"))
    path = draw.choice((path, path, path + "/", "/" + path, path + "%00", path + "?url=file:///etc/passwd"))
    method = draw.choice(("GET", "GET", "GET", "HEAD", "POST"))
    body = b"{}" if method == "POST" else b""
    may = EITHER if os.path.normpath(path.partition("?")[0].replace("%2e", ".")) in ("/", "//") else REFUSED
    return Case([request(page, path, method, body)], may, is_page, (method,))


GRADIO = (
    *("/gradio_api/" + name for name in (
        "upload", "upload_progress", "info", "queue/join", "queue/data", "queue/status", "heartbeat/x", "run",
        "file=/etc/passwd", "file/etc/passwd", "call/show", "run/show", "run/predict/x", "api/predict",
        "reset", "stream/a/b/c", "component_server", "app_id", "startup-events", "dev/reload",
        "proxy=http://x.example", "mcp/sse", "deep_link", "vibe-code", "token", "login_check", "",
        "monitoring", "../run/predict/..",
    )),
    *("/openapi.json", "/docs", "/redoc", "/config", "/login", "/logout", "/user", "/token", "/robots.txt"),
    *("/run/predict", "/queue/join", "/file=/etc/passwd", "/upload", "/pwa_icon", "/monitoring", "/api"),
    *("/theme.css/x", "/svelte/x", "/custom_component/a/b", "/static", "/assets", "/.git/config"),
    *("/index.html", "/" + "a" * 10_000, "/static/" + "a/" * 5000, "/assets/" + "%2e%2e/" * 1500),
    *("/static/" + "a" * 300, "/%ff%fe", "/static/%ed%a0%80"),
)  # fmt: skip
STEPS = (*("..", "..", "%2e%2e", ".%2e", "%252e%252e", "....", "..;"), *(".", "x", "~", "%00", "%2e%2e%00"))


def bodies(draw, page):
    """The page's call with anything but what the page sends."""
    value = draw.choice((None, -1, 10, 1.5, 10**400, float("nan"), float("inf"), "4", [], {}, ["x"], 2**63,
                         {"path": "/etc/passwd"}, "\ud800", {"meta": {"_type": "x"}}))  # fmt: skip
    deep, many = draw.choice((100, 5000, 5_000_000)), draw.choice((100, 5000, 1_300_000))
    good = call("")
    body = draw.choice((
        *(lambda: call("", value), lambda: call("", 4, value)),
        *(lambda: call(value if not isinstance(value, str) else None), lambda: json.dumps(value).encode()),
        lambda: json.dumps({"data": draw.choice(([], ["", 4], ["", 4, DEFAULT_MODEL, 1], value))}).encode(),
        lambda: b"[" * deep, lambda: b'{"data":' * min(deep, 10**6), lambda: b"[" * deep + b"]" * deep,
        lambda: b'{"data":[' + draw.choice((b"[],", b"{},", b'"",', b"1,", b'{"a":1},')) * many + b"1]}",
        lambda: b'{"data":["' + b"\\u00e9" * many + b'",11,""]}', lambda: b'{"data":[' + b"9" * many + b"]}",
        lambda: b"{" + b",".join(b'"%d":1' % key for key in range(many // 2)) + b"}",
        lambda: b" " * (LARGEST + draw.choice((0, 1, 10**6))), lambda: good + b" " * LARGEST,
        lambda: good.decode().encode(draw.choice(("utf-16", "utf-32", "utf-16-be"))),
        lambda: good.replace(b'""', b'"\xff\xfe"'), lambda: good.replace(b'""', b'"\xed\xa0\x80"'),
        lambda: good[: draw.randrange(1, len(good))], lambda: good + draw.choice((b"x", b"\0", good, b"}")),
        lambda: draw.randbytes(draw.choice((1, 1000, 10**6))), lambda: b"data=1&fn_index=0",
        lambda: good.replace(b'"data"', draw.choice((b'"Data"', b"data", b"'data'", b'"data\\u0000"'))),
        lambda: b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\na\r\n--x--\r\n',
    ))()  # fmt: skip
    kind = draw.choice(("application/json", "text/plain", "multipart/form-data; boundary=x", "\xe9"))
    return Case([request(page, CALL, body=body, headers=[f"Content-Type: {kind}"])], REFUSED, None, ("POST",))


def pictures(draw, page):
    """The page's own call with images that are good, damaged, hostile, or none."""
    what = draw.choice(("good", "good", "damaged", "metadata", "pixels", "pixels", "other", "text"))
    start, said = draw.choice((DRAWING, PHOTOGRAPH)), f"{ANSWER}|{LINE}"
    size = draw.choice((28, 100, 320, 320, 1000, 2000))
    kind = draw.choice(("PNG", "JPEG"))
    if what == "good":
        url, said = data_url(seven(size), kind, start), r"digit 7, 7 \+ 4 = 11" if size >= 100 else said
    elif what == "other":
        url = data_url(seven(size), draw.choice(("GIF", "BMP", "WEBP", "TIFF", "PPM", "PDF")), start)
        said = LINE
    elif what == "text":
        url = draw.choice(("x", "data:", start, start + "A", start + "A" * 9, start + "\n" * 99, start + "=",
                           "/etc/passwd", "http://evil.example/a.png", "file:///etc/passwd", start + "\udcff",
                           "data:image/svg+xml;base64,PHN2Zy8+", "data:image/png,", start * 2, "<b>" * 9,
                           "\0", start + "A" * 11_000_000, "\xe9" * 900_000))  # fmt: skip
        said = LINE
    else:
        form, parts, _ = draw.choice(FILES)
        if what == "damaged":
            content = io.BytesIO()
            seven(320).save(content, kind)
            content = mutated(draw, content.getvalue())
        elif what == "metadata":
            content = metadata_added(draw, form, parts)
        else:
            content, _ = pixels_changed(draw, form, parts)
        url = start + base64.b64encode(content).decode()
    body = call(url)
    may = REFUSED if "\udcff" in url or len(body) > LARGEST else OWN  # JSON of half a character is none
    return Case([request(page, CALL, body=body)], may, partial(shows, said), ("POST",), True)


FILES = good_files()


def frames(draw, page):
    """What is no HTTP, says its length twice, wrongly or in pieces, or asks for another protocol."""
    good, host = call(""), f"Host: {page.host}\r\n".encode()
    path = draw.choice((CALL, CALL, "/", "/x")).encode()
    start = b"POST " + path + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n"
    length, chunked = b"Content-Length: %d\r\n" % len(good), b"Transfer-Encoding: chunked\r\n"
    pieces = b"".join(b"%x\r\n%s\r\n" % (1, good[i : i + 1]) for i in range(len(good))) + b"0\r\n\r\n"
    smuggled = request(page, "/config", host="evil.example")
    own = Case([], OWN, partial(shows, re.escape(HINT)), ("POST",))
    lengths = (
        *(b"-1", b"+1", b"0x10", b"1e3", b"", b" ", b"1 2", b"1,2"),
        *(b"\xb2", b"9" * 30),
        TWO_LENGTHS,
    )
    wrong = (
        *(start + b"Content-Length: " + each + b"\r\n\r\n" + good for each in lengths),
        *(start + b"Transfer-Encoding: " + each + b"\r\n\r\n" + pieces for each in ENCODINGS),
        *(start + chunked + b"\r\n" + each for each in PIECES),
        *(each + host + b"\r\n" for each in STARTS),
        *(start + each + b"\r\n" + b"\r\n" for each in HEADERS),
        *(b"\0" * 9, b"\r\n" * 40_000 + b"x\r\n\r\n", draw.randbytes(1000) + b"\r\n\r\n", b"a" * 100_000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\r\n\r\n",
    )  # fmt: skip
    kinds = ("pieces", "long", "several", "smuggled", "upgrade", "parts", "later")
    what = draw.choice(("wrong", "wrong", "wrong", *kinds))
    if what == "wrong":
        return Case([draw.choice(wrong)], REFUSED, None)
    if what == "pieces":
        pieces = pieces.replace(b"1\r\n", draw.choice((b"1\r\n", b"1;a=b\r\n", b"00000001\r\n")))
        start = request(page, CALL).removesuffix(b"\r\n")
        return own._replace(sent=[start + chunked + b"\r\n" + pieces])
    if what == "long":
        name = draw.choice(("Cookie", "X", "Accept", "Origin", "Host"))
        values = [f"{name}: {'a' * draw.choice((100_000, 30_000))}"] * draw.choice((1, 1, 3))
        may = REFUSED if name in ("Origin", "Host") else EITHER
        return own._replace(sent=[request(page, CALL, body=good, headers=values)], may=may)
    if what == "several":
        count = draw.choice((2, 5, 20))
        sent = request(page, CALL, body=good, close=False) * (count - 1) + request(page, CALL, body=good)
        return own._replace(sent=[sent], methods=("POST",) * count)
    if what == "smuggled":
        said = b"Content-Length: 0\r\n"
        both = draw.choice((length + chunked, chunked + length, said + chunked, length * 2))
        body = good if both == length * 2 else pieces
        both = b"POST " + CALL.encode() + b" HTTP/1.1\r\n" + host + both + b"\r\n" + body + smuggled
        return own._replace(sent=[both], may=EITHER, methods=("POST", "GET"))
    if what == "upgrade":
        path = draw.choice(("/", "/gradio_api/queue/join", "/queue/join", "/x"))
        return Case(
            [request(page, path, headers=draw.choice((WEBSOCKET, H2C)))],
            OWN if path == "/" else REFUSED,
            is_page,
        )
    whole = request(page, CALL, body=good)
    if what == "parts":
        cuts = sorted(draw.randrange(len(whole)) for _ in range(3))
        parts = [whole[i:j] for i, j in zip((0, *cuts), (*cuts, len(whole)), strict=True)]
        return own._replace(sent=[each for part in parts for each in (part, 0.05)])
    # What is wrong comes when the answer has been given, or while it is computed.
    closing, pause, piece = b"Connection: close\r\n", draw.choice((0, 0.05, 0.5)), draw.choice(PIECES)
    if draw.random() < 0.25:
        sent = [whole.replace(closing, b""), pause, piece + b"\r\n\r\n"]
    else:
        start = request(page, draw.choice(("/", "/x", CALL)), draw.choice(("GET", "POST")))
        sent = [start.replace(closing, chunked), pause, piece]
    return Case(sent, EITHER, lambda text: True)


TWO_LENGTHS = b"1\r\nContent-Length: 2"
ENCODINGS = (b"gzip", b"chunked, chunked", b"identity", b"xchunked", b"chunked, gzip", b"\x0bchunked", b"")
PIECES = (*(b"zz\r\n", b"-1\r\n", b"3\r\nabcde\r\n", b"\0\r\n\r\n", b"f" * 30 + b"\r\n"),
          *(b"1" * 90_000, b"1;" + b"a" * 90_000))  # fmt: skip
STARTS = (b"GET\r\n", b"GET /\r\n", b"GET  / HTTP/1.1\r\n", b"GET / HTTP/1.1 \r\n", b"GET /\xff HTTP/1.1\r\n",
         b"GET / HTTP/11\r\n", b"GET / http/1.1\r\n", b"G\0T / HTTP/1.1\r\n", b" GET / HTTP/1.1\r\n",
         b"GET /a b HTTP/1.1\r\n", b"GET\t/ HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"GET /\0 HTTP/1.1\r\n",
         b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n", b"\xff / HTTP/1.1\r\n")  # fmt: skip
HEADERS = (b": x", b"X", b"X : y", b"X: a\0b", b"\xe9: x", b"X: a\rb", b" X: y", b"X\0: y", b"X: \x7f\x01")
WEBSOCKET = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             f"Sec-WebSocket-Key: {'A' * 22}=="]  # fmt: skip
H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"]


def abandoned(draw, page):
    """Connections that are closed in the middle of a request, or before its answer."""
    body = call(data_url(seven(320))) if draw.random() < 0.5 else b"[" + b" " * 3_000_000
    whole = request(page, draw.choice((CALL, CALL, CALL, "/")), body=body)
    until = draw.choice((0, 1, draw.randrange(200), draw.randrange(len(whole)), len(whole)))
    return Case([whole[:until], draw.choice((0, 0, 0.02, 0.2))], LEFT, None)


def slow(draw, page):
    """A body that does not come: it is given up. Few of these, as each takes SLOWEST seconds."""
    if draw.random() < 0.9:
        return draw.choice((hosts, bodies, frames))(draw, page)
    whole = request(page, CALL, body=call(""))
    start, rest = whole[:-60], whole[-60:]
    sent = draw.choice(([rest[:-1]], [part for byte in rest for part in (bytes([byte]), 0.2)]))
    return Case([start, *sent], REFUSED, None, ("POST",), False, SLOWEST + 5)


KINDS = (hosts, sites, methods, paths, bodies, pictures, frames, frames, abandoned, slow)
ROWS = [("requests to the page: hosts, origins, bodies, types", ask_the_page, 1_000)]
