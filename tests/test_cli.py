"""Every command line: what is refused, with usage, one line and exit code 2, and what the flags come to."""

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mnist_sum import cli
from mnist_sum.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
PARSERS = {
    "train.py": cli.parse_train,
    "inference.py": cli.parse_inference,
    "mnist_sum.reproduce": partial(cli.parse_reproduce, description="Reproduce."),
    "mnist_sum.study": partial(cli.parse_study, description="Study."),
    "mnist_sum.export": partial(cli.parse_export, description="Export."),
    "mnist_sum.demo": partial(cli.parse_demo, description="Demo."),
}
REFUSED = {
    "train.py": [
        "--limit 0", "--limit -1", "--limit 1.5", "--limit ten", "--limit ''", "--limit nan",
        f"--limit {2**63}", "--epochs 0", "--epochs 1e3", "--batch-size 0", "--batch-size -16", "--lr nan",
        "--lr inf", "--lr -inf", "--lr -1", "--lr 0", "--lr -0.0", "--lr 1e999", "--lr fast", "--lr ''",
        "--seed -1", f"--seed {2**63}", "--seed 0.5", f"--seed {'9' * 5000}", "--model resnet", "--model ''",
        "--model compact,tiny", "--model 'com\npact'", "--schedule cosine", "--split 80/20",
        "--precision fp8", "--device tpu", "--data cifar", "--resume", "--resume ''", "--output-dir ''",
        "--data-dir ''", "--teacher ''", "--limit=--", "--epochs=--", "--lr=--", "--seed=--", "--model=--",
        "--output-dir=--", "--unknown", "--epoch 3", "--save=yes", "stray",
    ],
    "inference.py": [
        "--total 0", "--total -5", "--total 1.5", "--total many", "--total=--", "--seed -1",
        f"--seed {2**64}", "--image a --number 10", "--image a --number -1", "--image a --number x",
        "--image", "--image a ''", "--checkpoint", "--checkpoint ''", "--checkpoint=--", "--output ''",
        "--data-dir ''", "--device tpu", "--data cifar", "--unknown", "stray", "--output x.pgf",
        "--output picture.nonsense", "--image a --number 3 --output m.safetensors",
        "--evaluate --checkpoint a b --output x.csv",
    ],
    "mnist_sum.reproduce": [
        "--models", "--models resnet", "--models compact resnet", "--seeds 0", "--seeds x", "--data-dir ''",
        "--teacher ''", "--output-dir ''", "--unknown", "stray",
    ],
    "mnist_sum.study": [
        "pairs --models", "pairs --models resnet", "pairs --seeds 0", "pairs --data cifar",
        "pairs --data-dir ''", "pairs --split pooled", "pairs --output-dir ''", "pairs --digits 2",
        "pairs --track a", "pairs --epochs 0", "sums --digits", "sums --digits 0", "sums --track c",
        "sums --models compact", "sums --epochs 9", "shortcuts --digits 1", "shortcuts --models compact",
        "pairs --unknown",
    ],
    "mnist_sum.export": ["--output", "--output ''", "--unknown", "one two"],
    "mnist_sum.demo": ["--port -1", "--port 65536", "--port x", "--checkpoint", "--checkpoint ''", "stray"],
}  # fmt: skip
BESIDE_RESUME = [
    "--model compact", "--epochs 3", "--batch-size 9", "--lr 0.1", "--schedule constant", "--split pooled",
    "--seed 0", "--limit 9", "--teacher x", "--precision auto", "--save", "--output-dir x", "--data auto",
]  # fmt: skip


def refusal(name, flags, capsys):
    """The message with which the program of this name refuses the flags."""
    with pytest.raises(SystemExit, match="^2$"):
        PARSERS[name](shlex.split(flags))
    out, err = capsys.readouterr()
    usage, _, message = err.rpartition(f"{name}: error: ")
    assert usage.startswith("usage: ") and message.count("\n") == 1 and out == ""
    return message


@pytest.mark.parametrize("name", ["x", "x.PNG", "x.jpg", "x.pdf", "x.svg", "x.webp", "f.x/p.png", ".x"])
def test_a_picture_may_have_each_suffix_that_can_be_written(name):
    assert cli.parse_inference(["--output", name]).output == name


def test_the_folder_of_evaluations_pictures_may_have_any_name():
    assert cli.parse_inference(["--evaluate", "--plot-graph", "--output", "x.pgf"]).output == "x.pgf"


def test_a_usage_error_is_one_printable_line_and_never_on_stdout(monkeypatch, capsys):
    assert "stray\\x1b[31m\\u2028\\n.png" in refusal("train.py", "'stray\x1b[31m\u2028\n.png'", capsys)
    monkeypatch.setattr(sys, "stderr", None)  # as Python has it after `2>&-`
    for parse in PARSERS.values():
        with pytest.raises(SystemExit, match="^2$"):
            parse(["--nosuch"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "flags"),
    [(name, flags) for name in REFUSED for flags in REFUSED[name]],
    ids=lambda text: text[:30],
)
def test_impossible_values_and_unknown_flags_are_usage_errors(name, flags, capsys):
    named = re.findall(r"--[a-z-]+", flags.partition("=")[0]) or flags.split()
    assert named[-1] in refusal(name, flags, capsys)


@pytest.mark.parametrize("flags", BESIDE_RESUME)
def test_resume_refuses_each_other_flag_by_name_even_at_its_default(flags, capsys):
    message = refusal("train.py", f"--resume folder {flags}", capsys)
    assert message.startswith(f"{flags.split()[0]} cannot be combined with --resume")


def test_resume_names_all_the_flags_that_it_refuses(capsys):
    assert refusal("train.py", "--lr 1 --resume x --save", capsys).startswith("--lr, --save cannot be")


def test_resume_takes_every_flag_that_does_not_change_the_run():
    flags = "--resume x --device cpu --data-dir y --json --summary --plot-graph --report"
    arguments = vars(cli.parse_train(flags.split()))
    assert [arguments[name] for name in cli.WITH_RESUME] == ["x", "cpu", "y", True, True, True, True]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        *[(f"--evaluate {flag}", f"{flag.split()[0]} is for predictions; --evaluate tests every image")
          for flag in ("--total 3", "--seed 0", "--image x", "--number 0")],
        ("--evaluate --output x", "--output needs --plot-graph"),
        ("--evaluate --checkpoint a b --plot-graph", "where one model errs"),
        ("--image a.png", "--image needs --number"),
        ("--number 0", "--number needs --image"),
        ("--image a.png --number 3 --total 5", "--total is for random test images"),
        ("--image a.png --number 3 --seed 0", "--seed is for random test images"),
        ("--plot-graph", "--plot-graph needs --evaluate"),
        ("--checkpoint a b", "a prediction takes one"),
    ],
)  # fmt: skip
def test_inference_flags_that_cannot_be_combined_are_named(flags, words, capsys):
    assert words in refusal("inference.py", flags, capsys)


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("train.py", "", {"model": "tiny", "seed": 0, "save": False, "limit": None, "resume": None}),
        ("train.py", "--summarize --lr 1e-3", {"summary": True, "lr": 0.001}),
        ("inference.py", "", {"total": 25, "checkpoint": None, "output": "predictions.png"}),
        ("inference.py", "--image a --image b --number 0", {"image": ["a", "b"], "number": 0}),
        ("inference.py", "--seed 0", {"seed": 0}),
        ("inference.py", "--evaluate", {"output": None}),
        ("inference.py", "--evaluate --plot-graph", {"output": "evaluation"}),
        ("inference.py", "--evaluate --checkpoint a --checkpoint b",
         {"checkpoint": ["a", "b"], "output": "comparison.png"}),
        ("inference.py", "--evaluate --checkpoint a b --output c", {"output": "c"}),
        ("mnist_sum.reproduce", "", {"models": list(RECIPES), "seeds": 3, "output_dir": "runs/reproduction"}),
        ("mnist_sum.export", "a --output b", {"checkpoint": "a", "output": "b"}),
        ("mnist_sum.demo", "--checkpoint a b", {"checkpoint": ["a", "b"], "port": 7860}),
    ],
)  # fmt: skip
def test_flags_and_their_defaults(name, flags, expected):
    assert expected.items() <= vars(PARSERS[name](flags.split())).items()


def test_random_test_images_are_other_ones_each_time():
    assert len({cli.parse_inference([]).seed for _ in range(3)}) > 1


@pytest.mark.parametrize("name", PARSERS)
def test_version_and_help_which_names_every_default_and_the_exit_codes(name, capsys):
    for flag in ("--version", "--help"):
        with pytest.raises(SystemExit, match="^0$"):
            PARSERS[name]([flag])
    version, text = capsys.readouterr().out.split("\n", 1)
    assert re.fullmatch(r"mnist_sum \d+\.\d+\.\d+", version)
    entries = re.split(r"\n  (?=-)", text.partition("options:")[2].partition("\n\n")[0])[1:]
    without = ("-h,", "--version", "--resume")
    assert [entry for entry in entries if "default: " not in " ".join(entry.split())] == [
        entry for entry in entries if entry.startswith(without)
    ]
    assert "\n\nexit codes: " in text
    assert all(model in text for model in RECIPES if name == "train.py")


@pytest.mark.parametrize("flag", ["--help", "--unknown", "--data-dir=x"])
@pytest.mark.parametrize("name", ["train.py", "inference.py", "mnist_sum.reproduce"])
def test_help_and_usage_errors_answer_without_torch(name, flag, tmp_path):
    """In an interpreter of its own that cannot import torch; what needs it says how to install it."""
    (tmp_path / "sitecustomize.py").write_text(  # Python runs it before anything else
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'numpy', 'matplotlib')))\n"
    )
    program = [ROOT / name] if name.endswith(".py") else ["-m", name]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, *program, flag]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    code = {"--help": 0, "--unknown": 2, "--data-dir=x": 1}[flag]
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert done.stdout.startswith("usage: ") == (code == 0) and bool(done.stdout) == (code == 0)
    if code == 1:
        assert done.stderr == f"{name}: error: torch is not installed; run: pip install -e .\n"
