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

from mnist_sum import checkpoint, export
from mnist_sum.dataset import MEAN, STD, normalised, one_hot
from mnist_sum.errors import Fault
from mnist_sum.recipes import RECIPES
from mnist_sum.training import fit, new_run

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
POISON = "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'onnx', 'onnxruntime')))\n"
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in export.NEEDS), reason="needs the extra `export`"
)


def saved_run(name, data, path):
    """A run of one epoch on noise, so that BatchNorm has seen something, and its checkpoint at path."""
    run = new_run(name, dataclasses.replace(RECIPES[name], epochs=2, batch_size=16), 3, CPU, "fp32")
    next(fit(run, data.train, data.test))
    checkpoint.save(path, run, checkpoint.describe_data(data))
    run.model.eval()
    return run


@pytest.fixture(scope="module")
def tiny(few, tmp_path_factory):
    """The path of a small model's checkpoint and the bytes of its ONNX file, made once for all."""
    path = tmp_path_factory.mktemp("tiny") / "c.pt"
    saved_run("tiny", few, path)
    return path, export.onnx_file(*checkpoint.load_model(path, CPU))


@pytest.fixture
def saved(tiny, tmp_path, monkeypatch):
    """The checkpoint alone in the working directory, its ONNX file made beforehand."""
    path, content = tiny
    monkeypatch.setattr(export, "onnx_file", lambda *_: content)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(path, tmp_path))


def command(*flags, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mnist_sum.export", *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


@needs_onnx
@pytest.mark.parametrize("name", RECIPES)
def test_every_models_file_stands_alone_and_repeats_the_model(name, few, tmp_path, capsys):
    import onnx
    import onnxruntime

    run = saved_run(name, few, tmp_path / "c.pt")
    assert export.main([str(tmp_path / "c.pt")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"done: {tmp_path / 'c.onnx'}, ")
    assert {path.name for path in tmp_path.iterdir()} == {"c.pt", "c.onnx"}, "no data beside the file"

    content = (tmp_path / "c.onnx").read_bytes()
    onnx.checker.check_model(content, full_check=True)
    for trace in (str(ROOT), str(Path(torch.__file__).parent), ".py"):
        assert trace.encode() not in content, "names a place on the machine that wrote it"
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    shapes = {x.name: (x.type, x.shape) for x in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "image": ("tensor(float)", ["batch", 1, 28, 28]),
        "number": ("tensor(float)", ["batch", 10]),
        "digit_logits": ("tensor(float)", ["batch", 10]),
        "sum_logits": ("tensor(float)", ["batch", 19]),
    }
    about = session.get_modelmeta()
    assert about.description == export.INTERFACE
    assert about.custom_metadata_map["model"] == name
    assert about.custom_metadata_map["training_data"] == "noise"
    assert about.custom_metadata_map["training_images"] == "64"
    assert about.custom_metadata_map["epochs"] == "1"
    for size in (1, 3, 30):
        image = normalised(few.test.images[:size].unsqueeze(1))
        number = one_hot(torch.arange(size).flip(0) % 10)
        outputs = session.run(None, {"image": image.numpy(), "number": number.numpy()})
        with torch.no_grad():
            expected = run.model(image, number)
        for found, wanted in zip(outputs, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-5)


def test_the_text_in_help_and_file_says_how_images_are_normalised():
    assert f"(pixel / 255 - {MEAN}) / {STD}" in export.INTERFACE


@needs_onnx
def test_as_a_user_runs_it_it_prints_its_own_lines_and_writes_the_same_bytes(tiny, tmp_path):
    checkpoint_path, content = tiny
    done = command(checkpoint_path, "--output", tmp_path / "new" / "m.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    starts = ("model: tiny from ", "digit_logits: ", "sum_logits: ", "done: ")
    lines = done.stdout.splitlines()
    assert len(lines) == len(starts)
    assert all(map(str.startswith, lines, starts)), lines
    assert (tmp_path / "new" / "m.onnx").read_bytes() == content


@needs_onnx
def test_without_a_checkpoint_it_takes_the_one_that_inference_takes(saved, monkeypatch, capsys):
    monkeypatch.setattr("mnist_sum.runs.default_checkpoint", lambda: saved)
    assert export.main([]) == 0
    assert saved.with_suffix(".onnx").exists()
    assert f"tiny from {saved}, trained for 1 epochs on noise (64 images)" in capsys.readouterr().out


@needs_onnx
def test_what_onnxruntime_does_not_repeat_is_not_written(saved, tmp_path, monkeypatch):
    (tmp_path / "c.onnx").write_bytes(b"the old file")
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(Fault, match="does not repeat torch's digit_logits: .* nothing was written"):
        export.main([str(saved)])
    assert (tmp_path / "c.onnx").read_bytes() == b"the old file"
    assert {path.name for path in tmp_path.iterdir()} == {"c.pt", "c.onnx"}


@needs_onnx
@pytest.mark.parametrize("factor", [2.0, float("nan")])
def test_the_comparison_finds_one_changed_row_of_weights(factor, tiny):
    path, content = tiny
    model, _ = checkpoint.load_model(path, CPU)
    assert max(export.largest_differences(content, model).values()) <= 1e-5
    with torch.no_grad():
        model.readers[0][-1].weight[3].mul_(factor)
    with pytest.raises(Fault, match="does not repeat"):
        export.largest_differences(content, model)


@needs_onnx
def test_the_comparison_finds_a_changed_prediction_however_close(tiny):
    model, stored = checkpoint.load_model(tiny[0], CPU)
    with torch.no_grad():  # all digits alike but one, ahead by less than the tolerance
        model.readers[0][-1].weight.zero_()
        model.readers[0][-1].bias.zero_()[4] = 1e-4
    content = export.onnx_file(model, stored)
    with torch.no_grad():
        model.readers[0][-1].bias[5] = 2e-4
    with pytest.raises(Fault, match="1 predictions changed"):
        export.largest_differences(content, model)


@pytest.mark.parametrize("name", export.NEEDS)
def test_a_missing_extra_is_a_fault_that_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Fault, match=rf"needs .*\b{name}\b.*; install with: pip install -e '\.\[export\]'$"):
        export.main(["nowhere.pt"])


@needs_onnx
def test_what_is_no_checkpoint_is_a_fault(tmp_path):
    (tmp_path / "other.pt").write_bytes(b"PK\x03\x04")
    for name, words in {"none.pt": "does not exist", "other.pt": "is not a mnist_sum checkpoint"}.items():
        with pytest.raises(Fault, match=words):
            export.main([str(tmp_path / name)])
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]


@needs_onnx
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("c.pt/x.onnx", "cannot write into c.pt: File exists"),
        (".", "is a folder; give --output the name of a file"),
        ("c.pt", "is the checkpoint itself"),
        (f"{'x' * 300}.onnx", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_a_fault(output, words, saved, tmp_path):
    before = saved.read_bytes()
    with pytest.raises(Fault, match=words):
        export.main(["c.pt", "--output", output])
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert saved.read_bytes() == before


@pytest.mark.parametrize("flags", ["a b", "--output", "--output=--", "--out x", "--nosuch", "--output="])
def test_usage_errors_exit_2_with_usage_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        export.parse(flags.split())
    assert caught.value.code == 2
    assert "python -m mnist_sum.export: error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--nosuch", 2), ("c.pt", 1)])
def test_help_usage_errors_and_a_missing_extra_answer_without_torch(flag, code, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POISON)  # Python runs it before anything else
    done = command(flag, PYTHONPATH=str(tmp_path))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 0:
        assert export.INTERFACE in done.stdout
    if code == 1:
        assert re.fullmatch("mnist_sum.export: error: writing ONNX needs onnx, .*\n", done.stderr)
