"""`python -m mnist_sum.export`: write a trained model as an ONNX file, if onnxruntime agrees with PyTorch.

Needs the extra `export`: pip install -e '.[export]'
"""

import argparse
import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_sum import __version__, cli

if TYPE_CHECKING:
    from torch import Tensor

    from mnist_sum.predict import TrainedModel

INTERFACE = """\
the ONNX model, for any batch size B:
  in   image         (B, 1, 28, 28) float32, white on black: (pixel / 255 - 0.1307) / 0.3081
  in   number        (B, 10) float32, one-hot
  out  digit_logits  (B, 10) float32, raw
  out  sum_logits    (B, 19) float32, raw"""


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mnist_sum.export",
        description=__doc__,
        epilog=INTERFACE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", nargs="?", help="default: the newest under runs/, else the shipped tiny")
    add("--output", metavar="FILE", help="default: beside the checkpoint; of a shipped model, in this folder")
    add("--model", nargs="+", default=[], type=cli.custom_model, metavar="FILE.py:NAME", help="a custom model")
    args = parser.parse_args(argv)
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise cli.UserError(f"{error.name} is not installed; run: pip install -e '.[export]'") from None

    import torch

    from mnist_sum.checkpoint import newest
    from mnist_sum.files import write_atomically
    from mnist_sum.models import WEIGHTS
    from mnist_sum.predict import load

    trained = load(args.checkpoint or newest(), "cpu", args.model)
    beside = trained.path.with_suffix(".onnx")
    output = args.output or (beside.name if beside.parent == WEIGHTS else beside)
    content = to_onnx(trained)
    # raw logits reach 100 and differ by up to 1e-4; ten times that changes no probability by more than 0.2%
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for size in (1, 2, 7, 100):
        image, number = sample_inputs(size)
        actual = session.run(None, {"image": image.numpy(), "number": number.numpy()})
        with torch.no_grad():
            expected = trained.model(image, number)
        try:
            torch.testing.assert_close([torch.from_numpy(each) for each in actual], list(expected), atol=1e-3, rtol=0)
        except AssertionError as error:
            raise cli.UserError(f"onnxruntime differs from PyTorch, nothing written: {error}") from None
    write_atomically(output, content)
    print(f"{trained}\nwritten: {Path(output)}, {len(content):,} bytes; onnxruntime agrees with PyTorch")


def sample_inputs(size: int) -> "tuple[Tensor, Tensor]":
    """(image (size, 1, 28, 28), number (size, 10)): noise in the upper left, which leans, and in the lower right."""
    import torch

    from mnist_sum.data import normalize, one_hot

    pixels = torch.randint(256, (size, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    pixels[:, :, :14, 14:] = pixels[:, :, 14:, :14] = 0
    return normalize(pixels), one_hot(torch.arange(size) % 10)


def to_onnx(trained: "TrainedModel") -> bytes:
    """Translate the model -> an ONNX file with its weights; the metadata says what it was trained on."""
    import torch

    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter is talkative
        try:
            program = torch.onnx.export(
                trained.model,
                sample_inputs(2),  # a batch of one would be taken for a constant
                input_names=["image", "number"],
                output_names=["digit_logits", "sum_logits"],
                dynamic_shapes=[{0: batch}, {0: batch}],
                dynamo=True,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise cli.UserError(f"torch cannot translate {trained.name} to ONNX: {reason:.300}") from error
    assert program is not None
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info):
        part.ClearField("metadata_props")  # source lines, with this machine's paths
    proto.doc_string = INTERFACE
    metadata = {"model": trained.name, "epochs": len(trained.info["history"]), "mnist_sum": __version__}
    metadata |= {f"training_{key}": value for key, value in trained.info["data"].items()}
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=str(value))
    return proto.SerializeToString()


if __name__ == "__main__":
    cli.run(main, "mnist_sum.export")
