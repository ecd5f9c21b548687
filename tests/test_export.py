"""ONNX files: what they hold, that onnxruntime repeats torch with them, and every way not to get one."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mnist_sum import cli, export
from mnist_sum.console import UserError
from mnist_sum.dataset import MEAN, STD, normalised, one_hot
from mnist_sum.models import ARCHITECTURES, shipped
from mnist_sum.recipes import DEFAULT_MODEL, RECIPES
from mnist_sum.runs import checkpoint
from mnist_sum.training import fit, new_state

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SHIPPED = shipped(DEFAULT_MODEL)
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in export.PACKAGES), reason="needs the extra `export`"
)


@pytest.fixture(scope="module")
def onnx_bytes():
    """The ONNX file of the default model, made once for all."""
    return export.to_onnx(*checkpoint.load_model(SHIPPED, CPU))


@pytest.fixture
def own(onnx_bytes, tmp_path, monkeypatch):
    """A checkpoint of one's own, alone in the current folder, whose ONNX file takes no time."""
    monkeypatch.setattr(export, "to_onnx", lambda *_: onnx_bytes)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(SHIPPED, "own.safetensors"))


def run_export(folder, *flags, python=(), **environment):
    """Run the command in the folder, as a user does; other keywords are environment variables."""
    command = [sys.executable, *python, "-m", "mnist_sum.export", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=170)


@needs_onnx
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnx_file_of_every_model_is_self_contained_and_gives_its_logits(name, few, tmp_path, capsys):
    import onnx
    import onnxruntime

    # One epoch on noise, so that batch normalisation has statistics.
    recipe = dataclasses.replace(RECIPES[name], epochs=2, batch_size=16)
    state = new_state(name, recipe, 3, CPU, "fp32")
    next(fit(state, few.train, few.test))
    model = state.model.eval()
    checkpoint.save(tmp_path / "c.safetensors", state, checkpoint.describe_data(few))
    assert export.main([str(tmp_path / "c.safetensors")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"done: {tmp_path / 'c.onnx'}, ")
    assert sorted(os.listdir(tmp_path)) == ["c.onnx", "c.safetensors"], "no data beside the file"

    content = (tmp_path / "c.onnx").read_bytes()
    onnx.checker.check_model(content, full_check=True)
    for trace in (str(ROOT), str(Path(torch.__file__).parent), ".py"):
        assert trace.encode() not in content, "names a place on the machine that wrote it"
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    tensors = [*session.get_inputs(), *session.get_outputs()]
    shapes = {"image": [1, 28, 28], "number": [10], "digit_logits": [10], "sum_logits": [19]}
    assert {tensor.name: tensor.shape for tensor in tensors} == {k: ["batch", *v] for k, v in shapes.items()}
    assert {tensor.type for tensor in tensors} == {"tensor(float)"}
    metadata = {"model": name, "training_data": "noise", "training_images": "64", "epochs": "1"}
    assert metadata.items() <= session.get_modelmeta().custom_metadata_map.items()
    assert session.get_modelmeta().description == cli.ONNX_INTERFACE
    for size in (1, 3, 30):
        image = normalised(few.test.images[:size].unsqueeze(1))
        number = one_hot(torch.arange(size).flip(0) % 10)
        outputs = session.run(None, {"image": image.numpy(), "number": number.numpy()})
        with torch.no_grad():
            expected = model(image, number)
        for actual, logits in zip(outputs, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), logits, atol=1e-4, rtol=1e-5)


def test_interface_text_gives_the_constants_of_the_normalisation():
    assert f"(pixel / 255 - {MEAN}) / {STD}" in cli.ONNX_INTERFACE


@needs_onnx
def test_shipped_model_is_exported_into_the_current_folder(onnx_bytes, tmp_path):
    done = run_export(tmp_path, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    starts = (
        "device: ",
        f"model: {DEFAULT_MODEL} from ",
        "translating",
        "digit_logits: ",
        "sum_logits: ",
        "done: ",
    )
    for line, start in zip(done.stdout.splitlines(), starts, strict=True):
        assert line.startswith(start)
    assert os.listdir(tmp_path) == [f"{DEFAULT_MODEL}.onnx"]
    assert (tmp_path / f"{DEFAULT_MODEL}.onnx").read_bytes() == onnx_bytes, "not the same bytes every time"


@needs_onnx
def test_file_that_onnxruntime_does_not_repeat_is_not_written(own, monkeypatch):
    Path("own.onnx").write_bytes(b"the old file")
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(UserError, match="digit_logits differ from PyTorch's by .*; nothing was written"):
        export.main([str(own)])
    assert Path("own.onnx").read_bytes() == b"the old file"
    assert sorted(os.listdir()) == ["own.onnx", "own.safetensors"]


@needs_onnx
@pytest.mark.parametrize("factor", [2.0, float("nan")])
def test_comparison_detects_one_changed_row_of_weights(factor, onnx_bytes):
    model, _ = checkpoint.load_model(SHIPPED, CPU)
    export.largest_differences(onnx_bytes, model)
    with torch.no_grad():
        model.members[0][-1].weight[3].mul_(factor)
    with pytest.raises(UserError, match="differ from PyTorch's"):
        export.largest_differences(onnx_bytes, model)


@needs_onnx
def test_comparison_detects_a_changed_prediction_within_the_tolerance():
    model, content = checkpoint.load_model(SHIPPED, CPU)
    with torch.no_grad():  # every digit has the same logit but one, which leads by less than the tolerance
        model.members[0][-1].weight.zero_()
        model.members[0][-1].bias.zero_()[4] = 1e-4
    onnx_bytes = export.to_onnx(model, content)
    with torch.no_grad():
        model.members[0][-1].bias[5] = 2e-4
    with pytest.raises(UserError, match="1 predictions changed"):
        export.largest_differences(onnx_bytes, model)


@pytest.mark.parametrize("name", export.PACKAGES)
def test_missing_package_is_one_line_that_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs .*\b{name}\b.*; .* pip install -e '\.\[export\]'$"):
        export.main(["nowhere.safetensors"])


@needs_onnx
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("own.safetensors/x.onnx", "cannot write into own.safetensors: File exists"),
        (".", "it is a folder; give the name of a file"),
        ("own.safetensors", "it is read by this command; give another name"),
        (f"{'x' * 300}.onnx", "File name too long"),
    ],
)
def test_unwritable_output_is_one_line_and_changes_no_file(output, words, own):
    with pytest.raises(UserError, match=words):
        export.main([str(own), "--output", output])
    assert os.listdir() == [own.name]
    assert own.read_bytes() == SHIPPED.read_bytes()


@needs_onnx
def test_neither_a_device_nor_the_file_of_an_own_network_is_replaced(own):
    Path("link").symlink_to("/dev/null")
    Path("net.py").write_bytes(source := b"from mnist_sum.models.compact import Compact\n")
    with pytest.raises(UserError, match="cannot write link: it is a device or a pipe"):
        export.main([str(own), "--output", "link"])
    with pytest.raises(UserError, match="cannot write net.py: it is read by this command"):
        export.main([str(own), "--output", "net.py", "--model", "net.py:Compact"])
    assert Path("link").is_char_device() and Path("net.py").read_bytes() == source


@pytest.mark.parametrize("flags", ["a b", "--output", "--output=--", "--out x", "--nosuch", "--output="])
def test_usage_error_exits_with_2_and_one_line(flags, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        export.main(flags.split())
    assert "python -m mnist_sum.export: error: " in capsys.readouterr().err.splitlines()[-1]


def test_help_gives_the_interface_without_importing_torch(tmp_path):
    done = run_export(tmp_path, "--help", python=("-X", "importtime"))
    assert done.returncode == 0
    assert cli.ONNX_INTERFACE in done.stdout
    assert re.search(r"\| +argparse$", done.stderr, re.M)
    assert not re.search(r"\| +(torch|numpy|onnx)$", done.stderr, re.M)
