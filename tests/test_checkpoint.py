import dataclasses

import pytest
import torch

from mnist_sum import checkpoint
from mnist_sum.dataset import normalised, one_hot
from mnist_sum.errors import Fault
from mnist_sum.recipes import RECIPES
from mnist_sum.training import fit, new_run

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_run_comes_back_whole(name, few, tmp_path):
    run = new_run(name, dataclasses.replace(RECIPES[name], epochs=2, batch_size=16), 3, CPU, "fp32")
    next(fit(run, few.train, few.test))
    checkpoint.save(tmp_path / "c.pt", run, checkpoint.describe_data(few))
    loaded, content = checkpoint.load_run(tmp_path / "c.pt", CPU)
    assert content["data"]["fingerprint"] == few.fingerprint()
    for field in ("model_name", "recipe", "seed", "precision", "epoch", "step", "history", "sums"):
        assert getattr(loaded, field) == getattr(run, field), field
    for key, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[key]), key
    list(fit(run, few.train, few.test))
    list(fit(loaded, few.train, few.test))
    for key, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[key]), f"{key} after going on"
    theirs, ours = loaded.optimizer.state_dict()["state"], run.optimizer.state_dict()["state"]
    for index, entry in ours.items():
        assert all(torch.equal(value, theirs[index][key]) for key, value in entry.items())


def test_only_a_finished_run_may_lack_its_optimizers_state(few, tmp_path):
    run = new_run("tiny", dataclasses.replace(RECIPES["tiny"], epochs=2, batch_size=16), 3, CPU, "fp32")
    sizes = []
    for _ in fit(run, few.train, few.test):
        checkpoint.save(tmp_path / "c.pt", run, checkpoint.describe_data(few))
        sizes.append((tmp_path / "c.pt").stat().st_size)
        _, content = checkpoint.load_run(tmp_path / "c.pt", CPU)
    assert sizes[1] < 0.7 * sizes[0]
    assert content["epoch"] == 2
    run.epoch, run.history = 1, run.history[:1]
    run.optimizer.state.clear()
    checkpoint.save(tmp_path / "c.pt", run, checkpoint.describe_data(few))
    with pytest.raises(Fault, match="optimizer state"):
        checkpoint.load(tmp_path / "c.pt")


def test_a_loaded_model_predicts_what_the_saved_one_did(few, tmp_path):
    run = new_run("compact", RECIPES["compact"], 0, CPU, "fp32")
    checkpoint.save(tmp_path / "c.pt", run, checkpoint.describe_data(few))
    model, _ = checkpoint.load_model(tmp_path / "c.pt", CPU)
    image, number = normalised(few.test.images.unsqueeze(1)), one_hot(torch.arange(30) % 10)
    run.model.eval()
    with torch.no_grad():
        for ours, theirs in zip(run.model(image, number), model(image, number), strict=True):
            assert torch.equal(ours, theirs)


def test_the_file_holds_plain_tensors_and_primitives_only(few, tmp_path):
    run = new_run("compact", RECIPES["compact"], 0, CPU, "fp32")
    checkpoint.save(tmp_path / "c.pt", run, checkpoint.describe_data(few))

    def walk(value):
        if isinstance(value, dict):
            for key, entry in value.items():
                assert type(key) in (str, int)
                walk(entry)
        elif isinstance(value, (list, tuple)):
            for entry in value:
                walk(entry)
        else:
            assert type(value) in (str, int, float, bool, type(None), torch.Tensor), value

    walk(torch.load(tmp_path / "c.pt", weights_only=True))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>not here</html>" * 100])
def test_what_is_no_checkpoint_is_a_fault_of_one_line_with_the_path(content, tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(Fault) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_faults(tmp_path):
    with pytest.raises(Fault, match="does not exist"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(Fault, match="folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -(10**400), "0.5", True])
def test_a_history_that_holds_what_no_run_can_is_a_fault(value, few, tmp_path):
    run = new_run("compact", dataclasses.replace(RECIPES["compact"], batch_size=16), 0, CPU, "fp32")
    next(fit(run, few.train, few.test))
    run.history[0]["test_sum_loss"] = value
    checkpoint.save(tmp_path / "c.pt", run, checkpoint.describe_data(few))
    with pytest.raises(Fault, match="history"):
        checkpoint.load(tmp_path / "c.pt")
