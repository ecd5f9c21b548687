"""`python -m mnist_sum.export`: write a trained model as one ONNX file.

The file is written only if onnxruntime's outputs agree with PyTorch's.
Needs the extra `export`: pip install -e '.[export]'.
"""

import io
import os
import warnings
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path

from mnist_sum import __version__, cli
from mnist_sum.console import UserError, note, one_line, run_script
from mnist_sum.system.files import check_output, make_folder, write_atomically

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUTS, OUTPUTS = ("image", "number"), ("digit_logits", "sum_logits")
BATCH_SIZES = 1, 2, 7, 100
# Two orders of the same float32 sums: trained models, whose logits reach 100, differ by up to 1e-4
# between torch and onnxruntime, and torch by as much from itself in float64. Ten times that moves
# no probability by more than 0.2% of itself, and a wrong layer or weight moves far more.
TOLERANCE = 1e-3


def main(argv):
    args = cli.parse_export(argv, __doc__)
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"writing ONNX needs {', '.join(missing)}; install with: pip install -e '.[export]'")

    # Else onnxruntime leaves files in ~/.cache, and warns where it cannot.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

    from mnist_sum.runs.trained import load_all

    (trained,) = load_all([args.checkpoint] if args.checkpoint else None, "cpu", args.model)
    output = output_path(args.output, trained)
    note("translating it to ONNX and comparing the outputs ...")
    onnx_bytes = to_onnx(trained.model, trained.stored)
    for name, difference in largest_differences(onnx_bytes, trained.model).items():
        note(f"{name}: onnxruntime differs from PyTorch by at most {difference:.1e}")
    write_atomically(output, onnx_bytes)
    note(f"done: {one_line(output)}, {len(onnx_bytes):,} bytes")
    return 0


def output_path(requested, trained):
    """The path of the ONNX file: the requested one, else beside the checkpoint with the suffix .onnx.

    A shipped model lies inside the installed package: its file goes into the current folder instead.
    Raises UserError where the path cannot be written.
    """
    from mnist_sum.models import WEIGHTS

    shipped = trained.path.resolve().parent == WEIGHTS.resolve()
    beside = trained.path.with_suffix(".onnx")
    path = Path(requested or (beside.name if shipped else beside))
    check_output(path, trained.files)
    make_folder(path.parent)
    return path


def to_onnx(model, stored):
    """Translate the model (on the CPU, in evaluation mode) -> the bytes of an ONNX file with its weights.

    stored: the model's checkpoint. What the model is and was trained on goes into the metadata.
    """
    import torch

    data = stored["data"]
    batch = torch.export.Dim("batch")  # one for both inputs, so the file says that they are the same
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # what the exporter says; the outputs are what is compared
        try:
            program = torch.onnx.export(
                model,
                sample_inputs(2),  # torch.export takes a batch of one for a constant
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=[{0: batch} for _ in INPUTS],
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            name = stored["model_name"]
            raise UserError(f"torch cannot translate {name} to ONNX: {reason:.300}") from error
    proto = program.model_proto
    # torch notes for every node which source line it comes from, with this machine's paths.
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info):
        part.ClearField("metadata_props")
    proto.doc_string = cli.ONNX_INTERFACE
    metadata = {"model": stored["model_name"], "epochs": stored["epoch"], "mnist_sum": __version__}
    metadata |= {"training_data": data["name"], "training_images": data["train_images"]}
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=str(value))
    return proto.SerializeToString()


def sample_inputs(size):
    """Inputs to compare with: (image (size, 1, 28, 28), number (size, 10)), bands of noise, each number.

    Noise moves a trained model's logits as far as digits do. The bands lean, each differently and some
    by more than 45 degrees, so that deskewing has something to do.
    """
    import torch

    from mnist_sum.dataset import normalised, one_hot
    from mnist_sum.system.randomness import generator

    pixels = torch.randint(256, (size, 1, 28, 28), generator=generator(0, "export"))
    offset = torch.arange(28) - 13.5  # from the middle
    slopes = torch.linspace(-1.5, 1.5, size).view(-1, 1, 1, 1)
    band = (offset - slopes * offset.unsqueeze(1)).abs() < 7
    return normalised(pixels * band), one_hot(torch.arange(size) % 10)


def largest_differences(onnx_bytes, model):
    """Compare onnxruntime with torch -> {output: the largest absolute difference of its logits}.

    Over batches of BATCH_SIZES. Raises UserError where it is above TOLERANCE or a prediction changes.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(OUTPUTS, 0.0)
    for size in BATCH_SIZES:
        inputs = sample_inputs(size)
        actual = session.run(OUTPUTS, {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)})
        with torch.no_grad():
            expected = model(*inputs)
        for name, ours, theirs in zip(OUTPUTS, expected, map(torch.from_numpy, actual), strict=True):
            difference = (theirs - ours).abs().max().item()
            changed = (theirs.argmax(1) != ours.argmax(1)).sum().item()
            if changed or not difference <= TOLERANCE:  # nor is NaN, which no comparison finds larger
                raise UserError(f"onnxruntime's {name} differ from PyTorch's by {difference:.1e} in a batch "
                                f"of {size}, {changed} predictions changed; nothing was written; try "
                                "other versions of onnxruntime and torch")  # fmt: skip
            largest[name] = max(largest[name], difference)
    return largest


if __name__ == "__main__":
    run_script(main, "mnist_sum.export")
