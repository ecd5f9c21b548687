"""What people who do this job report, each a test; rows that belong to a module are tested with it."""

import gzip
import hashlib
import http.server
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST

from mnist_sum import checkpoint
from mnist_sum.cli import UserError
from mnist_sum.data import FILES, load_data


@pytest.fixture
def archives(mnist_folder, tmp_path, monkeypatch):
    """A folder with MNIST's four files as .gz, of which torchvision knows the checksums."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for name in FILES:
        content = (mnist_folder / "MNIST" / "raw" / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    sums = {f"{name}.gz": hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest() for name in FILES}
    monkeypatch.setattr(MNIST, "resources", list(sums.items()))
    return folder


@pytest.fixture
def mirror(archives, monkeypatch):
    """A mirror of the archives; mirror(answer) first gives each file that answer, as bytes, if any."""
    bad: list[bytes] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            content = bad.pop() if bad else (archives / self.path.strip("/")).read_bytes()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield bad.extend
    server.shutdown()


def test_archives_in_the_folder_itself_are_used(archives):
    assert len(load_data("mnist", archives).train) == 60_000


@pytest.mark.parametrize("place", ["MNIST/raw", "."])
def test_files_named_as_kaggle_and_7zip_name_them_are_used(place, mnist_folder, tmp_path):
    (tmp_path / "m" / place).mkdir(parents=True)
    for name in FILES:
        shutil.copy(mnist_folder / "MNIST" / "raw" / name, tmp_path / "m" / place / name.replace("-idx", ".idx"))
    assert len(load_data("mnist", tmp_path / "m").test) == 10_000


def test_a_missing_file_is_named_with_what_lies_there(archives, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    (archives / f"{FILES[2]}.gz").rename(archives / "test.gz")
    with pytest.raises(UserError, match=rf"no {FILES[2]} in .*test.gz.*--data-dir or --data sample") as error:
        load_data("mnist", archives)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("answer", [b"<html>log in</html>", b"\x1f\x8b\x08half"])
def test_a_login_page_or_half_a_file_gets_a_second_try(answer, mirror, tmp_path):
    mirror([answer])
    assert len(load_data("mnist", tmp_path / "data").train) == 60_000
    assert sorted(path.name for path in (tmp_path / "data" / "MNIST" / "raw").iterdir()) == sorted(FILES)


def test_a_mirror_that_only_has_a_login_page_is_one_line_and_leaves_nothing(mirror, tmp_path):
    mirror([b"<html>log in</html>"] * 9)
    with pytest.raises(UserError, match="the download failed") as error:
        load_data("mnist", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data" / "MNIST" / "raw").iterdir())


def test_the_first_lines_of_a_run_name_the_threads(train):
    threads = torch.get_num_threads()
    try:
        assert "device: cpu, 2 threads" in train("--epochs", 1, "--limit", 64, "--threads", 2)[1]
    finally:
        torch.set_num_threads(threads)


def test_training_on_after_the_last_epoch_and_from_trained_weights(train):
    assert train("--epochs", 1, "--limit", 64, "--save", "--output-dir", "a")[0] == 0
    code, out, _ = train("--resume", "a", "--device", "cpu")
    assert code == 0
    assert "this run is finished; to train on: --weights a --model tiny --epochs N" in out
    _, out, _ = train(
        "--weights", "tiny", "--epochs", 1, "--limit", 640, "--lr", 0.01, "--save", "--output-dir", "b", "--json"
    )
    assert json.loads(out)["train_digit_accuracy"] > 0.95  # it knew the digits before
    assert checkpoint.read_info(checkpoint.find_checkpoint("b"))["weights"] == "tiny.safetensors"
    with pytest.raises(UserError, match="add --model compact"):
        train("--weights", "compact", "--epochs", 1, "--limit", 64)


def test_training_on_ones_own_pictures(train, infer, tmp_path, sample):
    for digit in range(10):
        (tmp_path / "mine" / str(digit)).mkdir(parents=True)
        for number, pixels in enumerate(sample.train.images[sample.train.digits == digit][:5]):
            ink = np.kron(255 - pixels.numpy(), np.ones((5, 5), np.uint8))
            Image.fromarray(np.pad(ink, 40, constant_values=255)).save(tmp_path / "mine" / str(digit) / f"{number}.png")
    Image.new("RGB", (100, 100), "white").save(tmp_path / "mine" / "3" / "blank.png")
    flags = ["--weights", "tiny", "--data", "mine", "--epochs", 2, "--lr", 0.01, "--batch-size", 16, "--save"]
    code, out, err = train(*flags, "--output-dir", "run")
    assert code == 0
    assert "pictures left out" in err
    assert "blank.png" in err
    assert "fewer than ten pictures" in err
    assert "training and" in out
    info = checkpoint.read_info(tmp_path / "run" / checkpoint.CHECKPOINT)
    assert info["data"]["name"] == str(tmp_path / "mine")
    assert info["data"]["train_images"] + info["data"]["test_images"] >= 45
    assert train("--resume", "run", "--device", "cpu")[0] == 0
    assert infer("--evaluate", "--checkpoint", "run", "--data", "mine")[0] == 0
