"""`python -m mnist_sum.export`: write a trained model as one ONNX file.

The file is put in place only after onnxruntime, reading it, has given the outputs that torch gives
for the checkpoint. Needs the extra `export`: pip install -e '.[export]'.
"""

import argparse
import os
import warnings
from importlib.util import find_spec
from pathlib import Path

from mnist_sum import __version__, cli
from mnist_sum.errors import Fault
from mnist_sum.files import make_folder, write_atomically

NEEDS = ("onnx", "onnxruntime", "onnxscript")
INTERFACE = """\
the ONNX model, for any batch size B:
  in   image         (B, 1, 28, 28) float32, white on black: (pixel / 255 - 0.1307) / 0.3081
  in   number        (B, 10) float32, one-hot: 1 at the number, 0 to 9, and 0 elsewhere
  out  digit_logits  (B, 10) float32, the digit 0 to 9
  out  sum_logits    (B, 19) float32, the sum 0 to 18
logits are raw: the largest is the prediction, and their softmax the probabilities"""
INPUTS, OUTPUTS = ("image", "number"), ("digit_logits", "sum_logits")
BATCH_SIZES = 1, 2, 7, 100
# Two orders of the same float32 sums: trained models, whose logits reach 100, differ by up to 1e-4
# between torch and onnxruntime, and torch by as much from itself in float64. Ten times that moves
# no probability by more than 0.2% of itself, and a wrong layer or weight moves far more.
TOLERANCE = 1e-3


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m mnist_sum.export",
        description=__doc__,
        epilog=f"{INTERFACE}\n\n{cli.EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint", nargs="?", type=cli.file_name, metavar="CHECKPOINT",
        help="the trained model (default: the newest runs/*/checkpoint.pt, else the one shipped in assets/)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=cli.file_name, metavar="FILE",
        help="the ONNX file (default: CHECKPOINT with the suffix .onnx)",
    )  # fmt: skip
    return cli.parsed(parser, argv)


def main(argv):
    args = parse(argv)
    absent = [name for name in NEEDS if find_spec(name) is None]
    if absent:
        raise Fault(f"writing ONNX needs {', '.join(absent)}; install with: pip install -e '.[export]'")

    import torch

    from mnist_sum import checkpoint, runs

    path = Path(args.checkpoint) if args.checkpoint else runs.default_checkpoint()
    model, stored = checkpoint.load_model(path, torch.device("cpu"))
    output = output_file(args.output, path)
    trained = stored["data"]
    cli.say(f"model: {stored['model_name']} from {path}, trained for {stored['epoch']} epochs on "
            f"{trained['name']} ({trained['train_images']:,} images)")  # fmt: skip
    content = onnx_file(model, stored)
    for name, difference in largest_differences(content, model).items():
        cli.say(f"{name}: onnxruntime differs from torch by at most {difference:.1e}")
    write_atomically(output, content)
    cli.say(f"done: {output}, {len(content):,} bytes")
    return 0


def output_file(wanted, checkpoint):
    """The path to write to; raises Fault, before the work is done, where that cannot be."""
    path = Path(wanted) if wanted else checkpoint.with_suffix(".onnx")
    if os.path.isdir(path):
        raise Fault(f"{path} is a folder; give --output the name of a file")
    if os.path.exists(path) and os.path.samefile(path, checkpoint):
        raise Fault(f"{path} is the checkpoint itself; give --output another name")
    make_folder(path.parent)
    return path


def onnx_file(model, stored):
    """The bytes of one ONNX file that holds the model (on the CPU, in evaluation mode), weights and all.

    stored: the model's checked checkpoint; what it is and was trained on goes into the metadata.
    """
    import torch

    batch = torch.export.Dim("batch")  # one for both inputs, so the file says that they are the same
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself; the outputs are what is judged
        program = torch.onnx.export(
            model,
            sample_inputs(2),  # torch.export takes a batch of one for a constant
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes={name: {0: batch} for name in INPUTS},
            dynamo=True,
            verbose=False,
        )
    file = program.model_proto
    # torch notes for every node which source line it comes from, with this machine's paths.
    for part in (file.graph, *file.graph.node, *file.graph.value_info):
        part.ClearField("metadata_props")
    file.doc_string = INTERFACE
    trained = stored["data"]
    for key, value in {
        "model": stored["model_name"],
        "training_data": trained["name"],
        "training_images": trained["train_images"],
        "epochs": stored["epoch"],
        "mnist_sum": __version__,
    }.items():
        file.metadata_props.add(key=key, value=str(value))
    return file.SerializeToString()


def sample_inputs(size):
    """(image (B, 1, 28, 28), number (B, 10)) for B = size: bands of noise, the ten numbers in turn.

    Noise needs no data, and moves a trained model's logits as far as digits do. The bands lean, each
    differently and some more than 45 degrees, so that setting them upright has something to do.
    """
    import torch

    from mnist_sum.dataset import normalised, one_hot
    from mnist_sum.randomness import generator

    pixels = torch.randint(256, (size, 1, 28, 28), generator=generator(0, "export"))
    at = torch.arange(28) - 13.5  # from the middle
    slopes = torch.linspace(-1.5, 1.5, size).view(-1, 1, 1, 1)
    band = (at - slopes * at.unsqueeze(1)).abs() < 7
    return normalised(pixels * band), one_hot(torch.arange(size) % 10)


def largest_differences(content, model):
    """{output: the largest absolute difference}, onnxruntime with the file's bytes against the model.

    Over batches of BATCH_SIZES. Raises Fault where it is above TOLERANCE or another class is chosen.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(OUTPUTS, 0.0)
    for size in BATCH_SIZES:
        inputs = sample_inputs(size)
        found = session.run(OUTPUTS, {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)})
        with torch.no_grad():
            expected = model(*inputs)
        for name, theirs, ours in zip(OUTPUTS, map(torch.from_numpy, found), expected, strict=True):
            difference = (theirs - ours).abs().max().item()
            changed = (theirs.argmax(1) != ours.argmax(1)).sum().item()
            if changed or not difference <= TOLERANCE:  # nor is NaN, which no comparison finds larger
                raise Fault(f"onnxruntime does not repeat torch's {name}: {difference:.1e} off in a batch "
                            f"of {size}, {changed} predictions changed; nothing was written; try other "
                            "versions of onnxruntime and torch")  # fmt: skip
            largest[name] = max(largest[name], difference)
    return largest


if __name__ == "__main__":
    cli.run(main, "mnist_sum.export")
