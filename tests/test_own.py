"""A network of one's own: what is wrong with it is said in one line, what is fine works as ours do, and no
checkpoint ever has a file imported."""

import dataclasses
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from stress import forks
from stress.outcome import bits, epochs_done
from test_processes import SAMPLE, Pair

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

NET = """import torch
from torch import nn
{top}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(794, 29)
        {init}
    def outputs(self, image, number):
        return self.body(torch.cat((image.flatten(1), number), 1)).split((10, 19), 1)
    def forward(self, image, n):
        digit, total = self.outputs(image, n)
        {forward}
{more}
"""
RECIPE = "RECIPE = {'epochs': 2, 'batch_size': 16, 'learning_rate': 1}"
HOSTILE = "open('marker', 'w')\n"


def net(forward="return digit, total", init="", top=RECIPE, more=""):
    return NET.format(forward=forward, init=init, top=top, more=more)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each test is in a folder of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def noise(few, monkeypatch):
    """Whatever data is asked for, it is noise."""
    for module in (data, runs):
        monkeypatch.setattr(module, "load", lambda *_: few)
    return few


JOIN = """
    def encode(self, image):
        return {}
    def join(self, features, number):
        return self(features.view(-1, 1, 28, 28), number)"""
UNFIT = [
    (net("return digit[:, :9], total"), "digit_logits has to be of shape .*2, 10., not .*2, 9."),
    (net("return digit, total.t()"), "sum_logits has to be of shape .*2, 19., not .*19, 2."),
    (net("return digit"), "return .digit_logits, sum_logits., not a float32 tensor of shape"),
    (net("return {'digit': digit}"), "not a dict"),
    (net("return digit.long(), total"), "digit_logits has to hold floats, not a int64"),
    (net("return digit * torch.nan, total"), "digit_logits .*not finite"),
    (net("return digit.softmax(1), total"), "digit_logits are probabilities; leave the softmax out"),
    (net("return digit, total.softmax(1)"), "sum_logits are probabilities"),
    (net("return digit, total if self.training else total.softmax(1)"), "sum_logits are probabilities"),
    (net("return self.outputs(image, 0 * n)"), "sum_logits ignores the number"),
    (net("return self.outputs(0 * image, n)"), "digit_logits ignores the image"),
    (net("return digit, self.outputs(0 * image, n)[1]"), "sum_logits ignores the image"),
    (net("return digit - digit.mean(0), total"), "digit_logits depend on what else is in its batch"),
    (net("return digit.squeeze(), total"), "digit_logits .*here .1, 10., not .*shape .10,."),
    (net("self.late = nn.Linear(19, 19); return digit, self.late(total)"), "late.weight, late.bias, too"),
    (net(init="self.unused = nn.Linear(3, 3)"), "no gradient reaches unused.weight, unused.bias"),
    (net(init="self.requires_grad_(False)"), "no parameter to train"),
    (net(init="self.register_buffer('mask', torch.tensor(torch.inf))"), "mask .*persistent=False"),
    (net(init="self.body = ONE", top="ONE = nn.Linear(794, 29)"), "same parameters twice"),
    (net(more=JOIN.format("2 * image")), "join.encode.image., number. is not forward"),
    (net(more=JOIN.format("(image,)")), "join.encode.image., number. failed: AttributeError"),
    (net(top="RECIPE = {'lr': 0.1}"), "RECIPE of net.py has no setting 'lr'; there are epochs, batch_size,"),
    (net(top="RECIPE = {'teacher': 64 * 'a'}"), "no setting 'teacher'"),
    (net(top="RECIPE = {'held_out': 'none'}"), "no setting 'held_out'"),
    (net(top="RECIPE = {'epochs': 0}"), "RECIPE of net.py has an impossible epochs: 0"),
    (net(top="RECIPE = {'learning_rate': 10**400}"), "impossible learning_rate"),
    (net(top="RECIPE = [1]"), "RECIPE of net.py is a list"),
    ("Net = 7", "no class or function Net$"), ("Net = dict", "gives a dict, not a torch.nn.Module"),
    # What fails in the file shows these lines of it.
    (net("raise ValueError('first\\nsecond')"), "failed: ValueError: first$", 13),
    (net("return helper()", more="def helper():\n    return 1 / 0"), "failed: ZeroDivisionError", 13, 15),
    (net("return digit.detach(), total.detach()"), "the backward pass failed"),
    (net(init="1 / 0"), "net.py: Net.. failed: ZeroDivisionError", 8),
    ("import torch\nclass Net(:\n", "cannot be imported: SyntaxError", 2),
    ("import nosuchpackage", "cannot be imported: ModuleNotFoundError: No module named 'nosuchpackage'", 1),
    ("raise SystemExit(7)", "cannot be imported: SystemExit: 7", 1),
    ("def f():\n    f()\nf()", "RecursionError", 2, 2, 2, 2, 2),
]  # fmt: skip


@pytest.mark.parametrize("case", UNFIT, ids=range(len(UNFIT)))
def test_what_is_wrong_with_a_network_is_said_in_one_line(case):
    text, said, *lines = case
    Path("net.py").write_text(text)
    with pytest.raises(UserError, match=said) as refused:
        check(load_own("net.py:Net"), Path("net.py"))
    assert str(refused.value).isprintable() and len(str(refused.value)) < 300
    shown = [line.partition(":")[0] for line in refused.value.details]
    assert shown == [f"  net.py, line {number}" for number in lines]


def test_what_fails_in_bf16_alone_is_told_so():
    rows = "rows = torch.arange(len(n)); "
    Path("net.py").write_text(net(f"{rows}return digit, torch.zeros(len(n), 19).index_add(0, rows, total)"))
    check(load_own("net.py:Net"), Path("net.py"))
    with pytest.raises(UserError, match="failed in bf16; with --precision fp32 it works: RuntimeError"):
        check(load_own("net.py:Net"), Path("net.py"), "cpu", "bf16")


@pytest.mark.parametrize("model", [
    "no.py:Net", ".py:Net", "net.py:Other", "net.py:instance", "tiny.safetensors:Net", "tinny",
    f"{'n' * 199}.py:Net",
])  # fmt: skip
def test_what_is_no_network_in_a_file_is_refused(model):
    Path("net.py").write_text(net(more="instance = Net()"))
    with pytest.raises(UserError, match=re.escape(model[:5])):
        models.find(model)


@pytest.mark.parametrize(("text", "shown", "said"), [
    (net("return digit, total @ total"), ["  net.py, line 13: return digit, total @ total"], "net.py: forw"),
    (net("return digit, total.softmax(1)"), [], "net.py:Net: sum_logits are probabilities"),
    ("import torch.no", ["  net.py, line 1: import torch.no"], "net.py: cannot be imported: ModuleNot"),
])  # fmt: skip
def test_train_refuses_an_unfit_network_before_there_is_a_folder(text, shown, said, folder):
    Path("net.py").write_text(text)
    code, stdout, stderr = forks.run("train.py", "--model", "net.py:Net", "--data", "sample", cwd=folder)
    *lines, error = stderr.splitlines()
    assert (code, stdout, lines) == (1, "", shown) and error.startswith(f"train.py: error: {said}")
    assert os.listdir() == ["net.py"]


# From here on: networks that are fine, on noise.


def run(stop_after=None, **settings):
    """What train.py does, stopped after so many steps; the Run."""
    with runs.opened("cpu", **settings) as opened:
        opened.announce()
        steps = iter(range(1, stop_after or 10**9))
        stop = lambda *_: setattr(opened.state, "stop_signal", None if next(steps, None) else 15)  # noqa: E731
        opened.state.optimizer.register_step_post_hook(stop)
        for row in fit(opened.state, opened.data.train, opened.data.test):
            opened.record(row)
        opened.finish()
    return opened


MEMBERS = """class Members(nn.ModuleList):
    def __init__(self):
        super().__init__(Net() for _ in range(3))
    def forward(self, image, number):
        outputs = [torch.stack(output) for output in zip(*(net(image, number) for net in self))]
        return outputs if self.training else [output.mean(0) for output in outputs]"""
ROWS = """class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.scale = nn.LSTM(28, 10, batch_first=True), nn.ParameterList([torch.ones(10)])
        self.look = nn.MultiheadAttention(10, 2, batch_first=True)
    def forward(self, *, image):
        x, _ = self.rows(image.squeeze(1))
        return {"x": self.look(query=x, key=x, value=x)[0].mean(1) * self.scale[0], "y": None}\n"""
GOOD = {
    "forward alone": (net(), "Net"),
    "lazy": (net(init="self.body = nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(29))"), "Net"),
    "zeros": (net(init="nn.init.zeros_(self.body.weight)"), "Net"),
    "a function": (net(more="def make():\n    return Net()"), "make"),
    "an ensemble": (net(more=MEMBERS), "Members"),
    "tied weights": (net(init="self.again = self.body"), "Net"),
    "partly frozen": (net(init="self.body.bias.requires_grad_(False)"), "Net"),
    "BatchNorm1d": (net(init="self.body = nn.Sequential(nn.Linear(794, 29), nn.BatchNorm1d(29))"), "Net"),
    "a view": (net("return digit + self.conv(image).view(-1, 40)[:, :10], total",
                   "self.conv = nn.Conv2d(1, 10, 27)"), "Net"),
    "not tensors alone": (net("return digit + self.rows(image=image)['x'], total",
                              "self.rows = Rows()", ROWS + RECIPE), "Net"),
    "a cache": (net("self.seen = total; return digit, total"), "Net"),
    "large": (net(init="self.body = nn.Sequential(nn.Linear(794, 3600), nn.Linear(3600, 29))"), "Net"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "name"), GOOD.values(), ids=GOOD)
def test_what_keeps_the_contract_trains_resumes_loads_and_is_tabled(text, name, noise):
    Path("net.py").write_text(text)
    run(2, model=f"net.py:{name}", lr=0.5, output_dir="run", save=True)
    state = run(resume="run", model=f"run/model.py:{name}").state
    assert (state.epoch, state.model_name) == (2, f"net.py:{name}")
    assert (state.recipe.batch_size, state.recipe.learning_rate) == (16, 0.5)  # the file's, the flag's
    loaded = trained.load("run/checkpoint.safetensors", "cpu", f"net.py:{name}").model
    assert bits(dict(loaded.state_dict())) == bits(dict(state.model.state_dict()))
    rows = layer_rows(loaded)
    assert sum(count for *_, count in rows) == sum(each.numel() for each in loaded.parameters())
    assert len(layer_inputs(state.model)) == len(rows)
    loaded.forward = None
    with pytest.raises(UserError, match="cannot list the layers of .*: TypeError"):
        layer_rows(loaded)


def test_networks_in_two_folders_each_import_the_file_beside_them(folder):
    beside = "import dataclasses\n@dataclasses.dataclass\nclass Width:\n    value: int = "
    for name in ("1", "2"):
        (folder / name).mkdir()
        (folder / name / "beside.py").write_text(beside + name)
        (folder / name / "net.py").write_text(net(top="import beside", init="self.w = beside.Width().value"))
    assert [models.build(f"{name}/net.py:Net").w for name in ("1", "2")] == [1, 2]


def trained_run(path="run"):
    """The checkpoint of a finished run of net.py:Net, on noise."""
    Path("net.py").write_text(net())
    run(model="net.py:Net", output_dir=path, save=True)
    return f"{path}/checkpoint.safetensors"


def test_a_stopped_run_resumes_from_its_folder_alone_and_ends_bit_identically(noise):
    stored = [checkpoint.load(trained_run("whole"), own=[models.find("net.py:Net")])]
    run(5, model="net.py:Net", output_dir="run", save=True)
    Path("net.py").unlink()
    with pytest.raises(UserError, match=r"^run/checkpoint\.safetensors .* --model net\.py:Net$"):
        run(resume="run")
    run(resume="run", model="run/model.py:Net")
    stored.append(checkpoint.load("run/checkpoint.safetensors", own=[models.find("run/model.py:Net")]))
    whole, resumed = ({**bits(each["model"]), "history": each["history"]} for each in stored)
    for row in (*whole["history"], *resumed["history"]):
        del row["seconds"]
    assert whole == resumed


def test_the_printed_commands_resume_and_test_it(sample, folder):
    Path("my net.py").write_text(net().replace("2,", "30,"))
    flags = shlex.split("--model 'my net.py:Net' --data sample --limit 256 --save --output-dir run")
    pid = forks.start("train.py", flags, folder / "out", folder / "err", cwd=folder)
    forks.wait_for(lambda: epochs_done(folder / "run") >= 1)
    os.kill(pid, signal.SIGTERM)
    assert forks.wait(pid) == 143
    stdout = Path("out").read_text()
    for name in ("train", "inference"):
        command = shlex.split(stdout.splitlines()[-1].partition(": ")[2])
        assert command[:3] == ["python", "-m", name]  # there is no train.py in this folder
        code, stdout, _ = forks.run(f"{name}.py", *command[3:], cwd=folder)
        assert code == 0
    assert "model: my net.py:Net from run/checkpoint.safetensors" in stdout


def test_two_processes_train_one_network(sample, folder):
    Path("net.py").write_text(net(init="self.body = nn.Sequential(nn.LazyLinear(29), nn.BatchNorm1d(29))"))
    pair = Pair(folder, "train.py", ["--model", "net.py:Net", "--save", "--limit", "64", *SAMPLE])
    assert pair.wait() == [0, 0], pair.stderr()
    assert trained.load("run/checkpoint.safetensors", "cpu", "run/model.py:Net").stored["epoch"] == 2


def test_its_report_shows_the_source_and_its_pictures_are_drawn(noise, capsys):
    trained_run()
    with runs.opened("cpu", resume="run", model="run/model.py:Net") as opened:
        opened.announce(summary=True)
        opened.finish(plot_graph=True, write_report=True)
    assert "Linear-1" in capsys.readouterr().out
    assert Path("net.py").read_text().strip() in Path("run/report.md").read_text()
    assert Path("run/model.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_compared_shown_reproduced_and_exported_beside_ours(noise, capsys):
    path, own = trained_run(), ["--model", "net.py:Net"]
    inference.main(["--evaluate", "--checkpoint", path, "compact", *own])
    assert re.search(r"1 net.py:Net +23,055 .*\n2 compact +7,364 ", capsys.readouterr().out)
    assert path in load_models([path], ["run/model.py:Net"])
    assert reproduce.main(["--models", "net.py:Net", "--seeds", "1", "--output-dir", "all"]) == 0
    assert "| `net.py:Net` | 23,055 |" in Path("all/reproduction.md").read_text()
    Path("other").mkdir()
    Path("other/net.py").write_text(net())
    with pytest.raises(UserError, match="two of the models are called net.py:Net"):
        reproduce.main(["--models", "net.py:Net", "other/net.py:Net", "--output-dir", "none"])
    pytest.importorskip("onnxscript")
    assert export.main([path, *own]) == 0 and Path("run/checkpoint.onnx").exists()
    Path("net.py").write_text(net("return digit, total if image.mean() > 0 else 2 * total"))
    with pytest.raises(UserError, match="cannot translate net.py:Net"):
        export.main([path, *own])


def test_a_file_that_changed_is_told_and_weights_that_no_longer_fit_are_refused(noise, capsys):
    path = trained_run()
    Path("net.py").write_text(net(more="# changed"))
    assert trained.load(path, own="net.py:Net").name == "net.py:Net"
    assert "warning: net.py:Net has changed since" in capsys.readouterr().err
    Path("net.py").write_text(net(init="self.body = nn.Linear(794, 29, bias=False)"))
    with pytest.raises(UserError, match="tensor 'model.body.bias'"):
        trained.load(path, own="net.py:Net")


# From here on: checkpoints whose network's file is hostile.

ENTRIES = {
    "inference": lambda path: inference.main(["--checkpoint", path]),
    "compare": lambda path: inference.main(["--evaluate", "--checkpoint", "tiny", path]),
    "default": lambda path: inference.main(["--evaluate"]),
    "image": lambda path: inference.main(["--image", "a.png", "--number", "3"]),
    "resume": lambda path: train.main(["--resume", "runs/compact-0"]),
    "teacher": lambda path: train.main(["--data", "sample", "--teacher", path]),
    "reproduce": lambda path: reproduce.main(["--models", "compact", "--teacher", path]),
    "reproduced": lambda path: reproduce.main(["--models", "compact", "--output-dir", "runs"]),
    "export": lambda path: export.main([path]),
    "demo": lambda path: load_models([path]),
    "load": lambda path: trained.load(path),
    "opened": lambda path: run(resume="runs/compact-0"),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_no_checkpoint_has_a_file_imported(entry, noise, monkeypatch):
    monkeypatch.setattr(export, "PACKAGES", ())
    path = trained_run("runs/compact-0")
    for place in (".", "runs/compact-0"):
        for name in ("net.py", "model.py"):
            Path(place, name).write_text(HOSTILE + net())
    with pytest.raises(UserError, match=r"--model net\.py:Net$"):
        entry(path)
    assert not Path("marker").exists()
    assert trained.load(path, own="net.py:Net") and Path("marker").exists(), "a dud, which proves nothing"


@pytest.mark.parametrize("name", [
    "os.py:system", "../net.py:Net", "/{}/net.py:Net", "runs\\net.py:Net", "net:Net", "net.py", "tiny", "",
    "$(touch marker).py:Net", "net.py:Net;rm", "net.py:Net\x1b[31m", "net.py:A\nB", "n" * 5000 + ".py:Net",
])  # fmt: skip
def test_no_name_in_a_checkpoint_is_imported_or_dangerous_to_paste(name, noise, folder):
    trained_run()
    state = run(resume="run", model="net.py:Net").state
    Path("net.py").write_text(HOSTILE + net())
    for source in (b"", None):
        state.architecture = dataclasses.replace(state.architecture, name=name.format(folder), source=source)
        checkpoint.save("bad", state, checkpoint.describe_data(noise))
        with pytest.raises(UserError) as refused:
            trained.load("bad")
        message = str(refused.value)
        assert message.isprintable() and len(message) < 200 and not Path("marker").exists()
        if "--model" in message:
            assert shlex.split(message.partition("--model ")[2]) == [name]
