"""A network of one's own: what is wrong with it is said in one line, what is fine works like ours, and no
checkpoint ever has a file imported."""

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import torch
from stress import forks
from stress.outcome import bits, epochs_done

import inference
import train
from mnist_sum import data, export, models, reproduce, runs
from mnist_sum.console import UserError
from mnist_sum.contract import check
from mnist_sum.demo.__main__ import load_models
from mnist_sum.figures.layers import layer_inputs, layer_rows
from mnist_sum.own import load_own
from mnist_sum.runs import checkpoint, trained
from mnist_sum.training import fit

CHECKPOINT = "checkpoint.safetensors"
SHORT = ["--data", "sample", "--limit", "64", "--output-dir", "run"]
SOURCE = '''"""A network of somebody's own."""
import torch
from torch import nn
{top}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(794, 29)
        {init}

    def forward(self, image, number):
        digit, total = self.body(torch.cat((image.flatten(1), number), 1)).split((10, 19), 1)
        {forward}
{more}
'''


def source(forward="return digit, total", init="", top="", more=""):
    return SOURCE.format(forward=forward, init=init, top=top, more=more)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test is in a folder of its own, its current one; ./marker is what hostile code leaves there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tried(text, name="Net"):
    """The Architecture of net.py with this text, if it keeps the contract."""
    Path("net.py").write_text(text)
    architecture = load_own(f"net.py:{name}")
    check(architecture, Path("net.py"))
    return architecture


def refusal(text, name="Net"):
    """What is said of net.py with this text, and the lines of it that are shown."""
    with pytest.raises(UserError) as refused:
        tried(text, name)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 400
    return str(refused.value), list(refused.value.details)


JOIN = """
    def encode(self, image):
        return {features}
    def join(self, features, number):
        return self.forward(features.view(-1, 1, 28, 28), number)"""
BROKEN = {
    "digit's shape": ({"forward": "return digit[:, :9], total"}, r"digit_logits .* \(2, 10\), not .* \(2, 9\)"),
    "sum's shape": ({"forward": "return digit, total.t()"}, r"sum_logits .*\(B, 19\).* not .* \(19, 2\)"),
    "one output": ({"forward": "return digit"}, r"return \(digit_logits, sum_logits\), not a float32 tensor"),
    "three outputs": ({"forward": "return digit, total, 0"}, "not 3 outputs"),
    "a dict": ({"forward": "return {'digit': digit}"}, "not a dict"),
    "classes": ({"forward": "return digit.argmax(1), total"}, r"digit_logits .* not a int64 tensor"),
    "integers": ({"forward": "return digit.long(), total"}, "digit_logits has to hold floats, not a int64"),
    "NaN": ({"forward": "return digit * torch.nan, total"}, "digit_logits .* not finite"),
    "softmax, digit": ({"forward": "return digit.softmax(1), total"}, "digit_logits are probabilities"),
    "softmax, sum": ({"forward": "return digit, total.softmax(1)"}, "sum_logits are probabilities"),
    "softmax in evaluation": ({"forward": "return digit, total if self.training else total.softmax(1)"},
                              "sum_logits are probabilities; leave the softmax out"),
    "no number": ({"forward": "return self.body(torch.cat((image.flatten(1), 0 * number), 1)).split((10, 19), 1)"},
                  "sum_logits ignores the number"),
    "no image": ({"forward": "return digit, self.body(torch.cat((0 * image.flatten(1), number), 1))[:, :19]"},
                 "sum_logits ignores the image"),
    "others in the batch": ({"forward": "return digit - digit.mean(0), total"}, "what else is in its batch"),
    "squeeze": ({"forward": "return digit.squeeze(), total.squeeze()"}, r"here \(1, 10\), not .* \(10,\)"),
    "no gradient": ({"init": "self.unused = nn.Linear(3, 3)"}, "no gradient reaches unused.weight, unused.bias"),
    "all frozen": ({"init": "self.requires_grad_(False)"}, "no parameter to train"),
    "infinite": ({"init": "self.register_buffer('mask', torch.tensor(torch.inf))"}, "mask .* persistent=False"),
    "shared": ({"top": "SHARED = nn.Linear(794, 29)", "init": "self.body = SHARED"}, "same parameters twice"),
    "made late": ({"forward": "self.late = nn.Linear(19, 19); return digit, self.late(total)"}, "late.weight"),
    "join": ({"more": JOIN.format(features="2 * image.flatten(1)")}, r"join\(encode\(image\), number\) is not"),
    "encode": ({"more": JOIN.format(features="(image,)")}, r"join\(encode\(image\), number\) failed: Attrib"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "said"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_contract_is_said_in_one_line(parts, said):
    assert re.search(said, refusal(source(**parts))[0])


FAILING = {
    "in forward": (source("raise ValueError('first\\nsecond')"), "Net", "failed: ValueError: first", [13]),
    "in a function": (source("return helper()", more="def helper():\n    return 1 / 0"), "Net", "division", [13, 15]),
    "in backward": (source("return digit.sign().detach(), total.detach()"), "Net", "backward pass failed", []),
    "in __init__": (source(init="1 / 0"), "Net", r"net.py: Net\(\) failed: ZeroDivisionError: division", [9]),
    "an argument": (source().replace("(self):", "(self, width):"), "Net", "missing 1 .* 'width'", []),
    "syntax": ("import torch\nclass Net(:\n", "Net", "cannot be imported: SyntaxError", [2]),
    "import": ("import nosuchpackage", "Net", "ModuleNotFoundError: No module named 'nosuchpackage'", [1]),
    "exit": ("raise SystemExit(7)", "Net", "cannot be imported: SystemExit: 7", [1]),
    "recursion": ("def f():\n    f()\nf()", "Net", "RecursionError", [2] * 5),
    "NUL": ("a = 1\0", "Net", "null bytes", []),
    "no such name": (source(), "Nat", "no class or function Nat; it has Net", []),
    "no callable": ("Net = 7", "Net", "no class or function Net", []),
    "an instance": (source(more="net = Net()"), "net", "no class or function net; it has Net", []),
    "no module": ("Net = dict", "Net", "gives a dict, not a torch.nn.Module", []),
    "RECIPE's setting": (source(top="RECIPE = {'lr': 0.1}"), "Net", "no setting 'lr'; there are epochs,", []),
    "a teacher": (source(top="RECIPE = {'teacher': 64 * 'a'}"), "Net", "no setting 'teacher'", []),
    "RECIPE's value": (source(top="RECIPE = {'epochs': 0}"), "Net", "impossible epochs: 0", []),
    "RECIPE's rate": (source(top="RECIPE = {'learning_rate': 10**400}"), "Net", "impossible learning_rate", []),
    "RECIPE's type": (source(top="RECIPE = [1]"), "Net", "RECIPE of net.py is a list", []),
}  # fmt: skip


@pytest.mark.parametrize(("text", "name", "said", "lines"), FAILING.values(), ids=FAILING)
def test_what_fails_in_the_file_shows_its_own_lines_and_none_of_ours(text, name, said, lines):
    message, details = refusal(text, name)
    assert re.search(said, message)
    assert [line.partition(":")[0] for line in details] == [f"  net.py, line {line}" for line in lines]


@pytest.mark.parametrize(
    "model", ["none.py:Net", "folder.py:Net", "tiny.safetensors:Net", "compakt", f"{'n' * 300}.py:Net"]
)
def test_what_is_no_file_to_import_is_refused(model):
    Path("folder.py").mkdir()
    with pytest.raises(UserError):
        models.find(model)


@pytest.mark.parametrize("key", ["one output", "NaN"])
def test_train_refuses_a_broken_network_before_there_is_a_folder(key, sample, folder):
    (folder / "net.py").write_text(source(**BROKEN[key][0]))
    code, stdout, stderr = forks.run("train.py", "--model", "net.py:Net", *SHORT, cwd=folder)
    assert (code, stdout, stderr.count("\n")) == (1, "", 1) and stderr.startswith(
        "train.py: error: net.py:Net: "
    )
    assert os.listdir() == ["net.py"]


def test_train_shows_the_lines_that_fail(sample, folder):
    (folder / "net.py").write_text(source("return digit, total @ total"))
    code, stdout, stderr = forks.run("train.py", "--model", "net.py:Net", *SHORT, cwd=folder)
    line, error = stderr.splitlines()
    assert (code, stdout, line) == (1, "", "  net.py, line 13: return digit, total @ total")
    assert error.startswith("train.py: error: net.py: forward(image (2, 1, 28, 28), number (2, 10)) failed: ")
    assert os.listdir() == ["net.py"]


# From here on: networks that are fine, on noise.


@pytest.fixture
def noise(few, monkeypatch):
    """Whatever data is asked for, it is noise."""
    for module in (data, runs):
        monkeypatch.setattr(module, "load", lambda *_: few)
    return few


def run(stop_after=None, **settings):
    """What train.py does; stopped after so many steps. The Run."""
    with runs.opened("cpu", **settings) as opened:
        opened.announce()
        if stop_after is not None:
            steps = iter(range(1, stop_after))
            opened.state.optimizer.register_step_post_hook(
                lambda *_: setattr(opened.state, "stop_signal", None if next(steps, None) else 15)
            )
        for row in fit(opened.state, opened.data.train, opened.data.test):
            opened.record(row)
        opened.finish()
    return opened


RECIPE = "RECIPE = {'epochs': 2, 'batch_size': 16, 'learning_rate': 1}"
MEMBERS = """
class Members(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(Net() for _ in range(3))
    def forward(self, image, number):
        outputs = [torch.stack(output) for output in zip(*(net(image, number) for net in self.members))]
        return outputs if self.training else [output.mean(0) for output in outputs]"""
KEYWORDS = """
class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.scale = nn.LSTM(28, 8, batch_first=True), nn.ParameterList([torch.ones(8)])
        self.look = nn.MultiheadAttention(8, 2, batch_first=True)
    def forward(self, *, image):
        x, _ = self.rows(image.squeeze(1))
        return {"x": self.look(query=x, key=x, value=x)[0].mean(1) * self.scale[0], "y": None}
class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.last = Rows(), nn.Parameter(torch.randn(18, 29))
    def forward(self, image, number):
        return (torch.cat((self.rows(image=image)["x"], number), 1) @ self.last).split((10, 19), 1)"""
VIEW = "digit, total = self.body(torch.cat((self.conv(image).view(-1, 784), number), 1)).split((10, 19), 1); "
GOOD = {
    "forward alone": ({}, "Net"),
    "lazy": ({"init": "self.body = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(29))"}, "Net"),
    "zeros": ({"init": "nn.init.zeros_(self.body.weight); nn.init.zeros_(self.body.bias)"}, "Net"),
    "a function": ({"more": "def make():\n    return Net()"}, "make"),
    "an ensemble": ({"more": MEMBERS}, "Members"),
    "tied": ({"init": "self.again = self.body"}, "Net"),
    "partly frozen": ({"init": "self.body.bias.requires_grad_(False)"}, "Net"),
    "BatchNorm": ({"init": "self.body = nn.Sequential(nn.Linear(794, 29), nn.BatchNorm1d(29))"}, "Net"),
    "view": ({"init": "self.conv = nn.Conv2d(1, 4, 15)", "forward": VIEW + "return digit, total"}, "Net"),
    "a dataclass": ({"top": "import dataclasses\n@dataclasses.dataclass\nclass Width:\n    value: int = 29"}, "Net"),
    "keywords": ({"more": KEYWORDS}, "Whole"),
    "large": ({"init": "self.body = nn.Sequential(nn.Linear(794, 5000), nn.Linear(5000, 29))"}, "Net"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "name"), GOOD.values(), ids=GOOD)
def test_what_keeps_the_contract_trains_resumes_loads_and_is_tabled(parts, name, noise):
    Path("net.py").write_text(source(**{"top": "", **parts}) + RECIPE)
    run(2, model=f"net.py:{name}", output_dir="run", save=True)
    state = run(resume="run", model=f"run/model.py:{name}").state
    assert (state.epoch, state.recipe.learning_rate, state.model_name) == (2, 1.0, f"net.py:{name}")
    loaded = trained.load(f"run/{CHECKPOINT}", "cpu", f"net.py:{name}")
    assert bits(dict(loaded.model.state_dict())) == bits(dict(state.model.state_dict()))
    rows = layer_rows(loaded.model)
    assert sum(count for *_, count in rows) == sum(each.numel() for each in loaded.model.parameters())
    assert len(layer_inputs(loaded.model)) == len(rows)


def test_networks_in_two_folders_each_import_the_file_beside_them(folder):
    for name, width in (("one", 5), ("two", 6)):
        (folder / name).mkdir()
        (folder / name / "beside.py").write_text(f"WIDTH = {width}")
        (folder / name / "net.py").write_text(source(top="import beside", init="self.width = beside.WIDTH"))
    assert [models.build(f"{name}/net.py:Net").width for name in ("one", "two")] == [5, 6]
    assert not list(folder.glob("*/__pycache__/net*"))


def test_its_recipe_is_its_default_and_flags_override_it(noise):
    Path("net.py").write_text(source(top=RECIPE))
    recipe = run(model="net.py:Net", lr=0.5, schedule="constant", output_dir="run").state.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.schedule) == (
        2,
        16,
        0.5,
        "constant",
    )


def test_a_stopped_run_resumes_from_its_folder_bit_identically(noise, folder):
    Path("net.py").write_text(source(top=RECIPE))
    whole = run(model="net.py:Net", output_dir="whole", save=True)
    run(5, model="net.py:Net", output_dir="run", save=True)
    assert Path("run/model.py").read_bytes() == Path("net.py").read_bytes()
    Path("net.py").unlink()
    with pytest.raises(UserError, match=r"run/checkpoint\.safetensors .* --model net\.py:Net$"):
        run(resume="run")
    resumed = run(resume="run", model="run/model.py:Net")
    for name, tensor in whole.state.model.state_dict().items():
        assert torch.equal(resumed.state.model.state_dict()[name], tensor)
    for row, other in zip(whole.state.history, resumed.state.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


def test_the_printed_commands_resume_and_test_an_own_run(sample, folder):
    Path("my net.py").write_text(source(top=RECIPE.replace("2", "40")))
    begin = [
        "--model",
        "my net.py:Net",
        "--data",
        "sample",
        "--limit",
        "256",
        "--output-dir",
        "a run",
        "--save",
    ]
    pid = forks.start("train.py", begin, folder / "out", folder / "err", cwd=folder)
    forks.wait_for(lambda: epochs_done(folder / "a run") >= 1)
    os.kill(pid, signal.SIGTERM)
    assert forks.wait(pid) == 143
    (resume,) = re.findall("^stopped; resume with: python (.+)$", Path("out").read_text(), re.MULTILINE)
    code, stdout, stderr = forks.run(*shlex.split(resume), cwd=folder)
    assert (code, stderr) == (0, "")
    (evaluate,) = re.findall("^next: python (.+)$", stdout, re.MULTILINE)
    code, stdout, _ = forks.run(*shlex.split(evaluate), "--data", "sample", cwd=folder)
    assert code == 0 and "model: my net.py:Net from a run/" in stdout


def trained_run(path="run", **parts):
    """The checkpoint of a finished run of net.py:Net; needs noise."""
    Path("net.py").write_text(source(**{"top": RECIPE, **parts}))
    run(model="net.py:Net", output_dir=path, save=True)
    return str(Path(path, CHECKPOINT))


def test_its_report_shows_the_source_and_its_pictures_are_drawn(noise, capsys):
    trained_run()
    with runs.opened("cpu", resume="run", model="run/model.py:Net") as opened:
        opened.announce(summary=True)
        opened.finish(plot_graph=True, write_report=True)
    assert "Linear-1" in capsys.readouterr().out
    assert Path("net.py").read_text().strip() in Path("run/report.md").read_text()
    assert Path("run/model.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_compared_exported_shown_and_reproduced_beside_ours(noise, monkeypatch, capsys):
    path = trained_run()
    inference.main(["--evaluate", "--json", "--checkpoint", path, "compact", "--model", "net.py:Net"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["parameters"]) for row in rows] == [("net.py:Net", 23_055), ("compact", 7364)]
    assert path in load_models([path], ["run/model.py:Net"])
    assert reproduce.main(["--models", "net.py:Net", "--seeds", "1", "--output-dir", "runs/all"]) == 0
    assert "| `net.py:Net` | 23,055 |" in Path("runs/all/reproduction.md").read_text()
    pytest.importorskip("onnxscript")
    assert export.main([path, "--model", "net.py:Net"]) == 0 and Path("run/checkpoint.onnx").exists()


def test_a_file_that_changed_since_is_told_and_weights_that_no_longer_fit_are_refused(noise, capsys):
    path = trained_run()
    Path("net.py").write_text(source(more="# changed"))
    assert trained.load(path, own="net.py:Net").name == "net.py:Net"
    assert capsys.readouterr().err == "warning: net.py:Net has changed since the checkpoint was written\n"
    Path("net.py").write_text(source(init="self.body = nn.Linear(794, 29, bias=False)"))
    with pytest.raises(UserError, match="tensor 'model.body.bias'"):
        trained.load(path, own="net.py:Net")


# From here on: checkpoints whose network's file is hostile.

HOSTILE = "open('marker', 'w')\n"
ENTRIES = {
    "inference": lambda path: inference.main(["--checkpoint", path]),
    "evaluate": lambda path: inference.main(["--evaluate", "--checkpoint", path]),
    "compare": lambda path: inference.main(["--evaluate", "--checkpoint", "tiny", path]),
    "default": lambda path: inference.main(["--evaluate"]),
    "image": lambda path: inference.main(["--image", "a.png", "--number", "3"]),
    "resume": lambda path: train.main(["--resume", str(Path(path).parent)]),
    "teacher": lambda path: train.main(["--data", "sample", "--teacher", path]),
    "reproduce": lambda path: reproduce.main(["--models", "compact", "--teacher", path]),
    "reproduced": lambda path: reproduce.main(["--models", "compact", "--output-dir", "runs"]),
    "export": lambda path: export.main([path]),
    "demo": lambda path: load_models([path]),
    "load": lambda path: trained.load(path),
    "opened": lambda path: run(resume=Path(path).parent),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_checkpoint_has_no_file_imported_without_model(entry, noise, monkeypatch, folder):
    monkeypatch.setattr(export, "PACKAGES", ())
    path = trained_run("runs/compact-0")
    for place in ("net.py", "runs/compact-0/model.py", "runs/compact-0/net.py"):
        Path(place).write_text(HOSTILE + source())
    with pytest.raises(UserError, match=r"--model net\.py:Net$"):
        ENTRIES[entry](path)
    assert not Path("marker").exists()
    assert trained.load(path, own="net.py:Net") and Path("marker").exists(), "a dud, which proves nothing"


NAMES = ["os.py:system", "../net.py:Net", "{folder}/net.py:Net", "net.py:Net;rm", "net.py:Net\x1b[31m", "net.py", "tiny",
         "net:Net", "$(touch marker).py:Net", "runs\\net.py:Net", "n" * 5000 + ".py:Net", "net.py:Net\nnet.py:Net"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_in_a_checkpoint_is_imported_or_can_be_pasted(name, noise, folder):
    raw = Path(trained_run()).read_bytes()
    text = json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["mnist_sum"])
    tensors, text = checkpoint._decoded(raw)[0], {**text, "model_name": name.format(folder=folder)}
    del text["sha256"]
    Path("net.py").write_text(HOSTILE + source())
    for sha256 in ("a" * 64, None):
        Path("bad").write_bytes(checkpoint.encode(tensors, {**text, "source_sha256": sha256}))
        with pytest.raises(UserError) as refused:
            trained.load("bad")
        message = str(refused.value)
        assert message.isprintable() and len(message) < 300 and ("$(" not in message or "'$(" in message)
    assert not Path("marker").exists()
