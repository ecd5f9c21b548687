"""The ONNX file: the same outputs for any batch size, with what it was trained on."""

import pytest
import torch

from mnist_sum import export
from mnist_sum.cli import UserError
from mnist_sum.recipes import RECIPES

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")


@pytest.mark.parametrize("name", ["tiny", "compact", "large"])
def test_the_file_works_in_onnxruntime(name, tmp_path, monkeypatch, capsys):
    import onnxruntime

    from mnist_sum.predict import load

    monkeypatch.chdir(tmp_path)
    export.main([name])
    assert "onnxruntime agrees" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
    image, number = export.sample_inputs(5)
    digit_logits, sum_logits = session.run(None, {"image": image.numpy(), "number": number.numpy()})
    expected = load(name, "cpu").model(image, number)
    assert torch.allclose(torch.from_numpy(sum_logits), expected[1], atol=1e-3)
    assert digit_logits.shape == (5, 10)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / f"{name}.onnx").metadata_props}
    assert metadata["model"] == name
    assert metadata["epochs"] == str(RECIPES[name].epochs)
    assert str(tmp_path).encode() not in (tmp_path / f"{name}.onnx").read_bytes()


def test_outputs_that_differ_are_not_written(tmp_path, monkeypatch):
    real = export.sample_inputs

    def shifted(size):
        image, number = real(size)
        return image, number.roll(1, 1) if size == 7 else number

    monkeypatch.setattr(torch.testing, "assert_close", lambda *_, **__: (_ for _ in ()).throw(AssertionError("far")))
    monkeypatch.setattr(export, "sample_inputs", shifted)
    with pytest.raises(UserError, match="nothing written"):
        export.main(["compact", "--output", str(tmp_path / "c.onnx")])
    assert not (tmp_path / "c.onnx").exists()
