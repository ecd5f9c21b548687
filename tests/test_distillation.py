"""Knowledge distillation: its loss by hand, the teacher's logits, and runs that learn from them."""

import dataclasses
import os
import signal
from functools import partial

import pytest
import torch
from stress import forks
from stress.forks import wait_for
from stress.outcome import bits, epochs_done, outcome

from mnist_sum import models, runs, training
from mnist_sum.console import UserError
from mnist_sum.dataset import MnistSum, batches, normalised, one_hot
from mnist_sum.loss import TEMPERATURE, distillation_loss
from mnist_sum.models.exact_addition import add_exactly
from mnist_sum.recipes import RECIPES
from mnist_sum.runs import checkpoint, folder
from mnist_sum.runs.distillation import Teacher, load_teacher
from mnist_sum.training import fit, new_state

CPU = torch.device("cpu")


def random_logits(*shape):
    digit_logits = torch.randn(*shape, 10)
    return digit_logits, add_exactly(digit_logits, one_hot(torch.arange(shape[-1]) % 10))


def soft_cross_entropy(student, teacher):
    """Case by case, class by class, in Python's own arithmetic."""
    cases = []
    for a, b in zip(student.double() / TEMPERATURE, teacher.double() / TEMPERATURE, strict=True):
        logs = a.log_softmax(0).tolist()
        cases.append(-sum(p * log for p, log in zip(b.softmax(0).tolist(), logs, strict=True)))
    return sum(cases) / len(cases)


def test_distillation_loss_is_the_sum_of_both_outputs_losses_worked_out_by_hand():
    student, teacher = random_logits(6), random_logits(6)
    expected = TEMPERATURE * sum(map(soft_cross_entropy, student, teacher))
    assert distillation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_distillation_loss_of_bfloat16_logits_is_computed_in_float32():
    student, teacher = [logits.bfloat16() for logits in random_logits(6)], random_logits(6)
    expected = distillation_loss([logits.float() for logits in student], teacher)
    assert torch.equal(distillation_loss(student, teacher), expected)


def test_distillation_loss_of_an_ensemble_is_the_mean_of_its_members_losses():
    students, teacher = random_logits(3, 6), random_logits(6)
    each = [distillation_loss(member, teacher) for member in zip(*students, strict=True)]
    torch.testing.assert_close(distillation_loss(students, teacher), sum(each) / 3)


@pytest.mark.parametrize("equal", [False, True])
def test_the_gradient_vanishes_only_where_the_student_equals_the_teacher(equal):
    student, teacher = random_logits(6), random_logits(6)
    logits = [part.clone().requires_grad_() for part in (teacher if equal else student)]
    distillation_loss(logits, teacher).backward()
    assert all(torch.isfinite(part.grad).all() for part in logits)
    assert all((part.grad.abs().max() < 1e-6) == equal for part in logits)


@pytest.mark.parametrize("name", ["tiny", "compact"])
def test_teacher_logits_are_the_models_digit_logits_added_exactly(name, few):
    torch.manual_seed(1)
    model = models.build(name).eval()
    (image, number), _ = MnistSum(few.train)[torch.tensor([5, 0, 7])]
    digit_logits = model(image, number)[0].detach()
    expected = digit_logits, add_exactly(digit_logits, number)
    for one, other in zip(Teacher(model).logits(image, number), expected, strict=True):
        assert torch.equal(one, other) and not one.requires_grad


def distilled_state(few, epochs):
    torch.manual_seed(1)
    recipe = RECIPES["tiny"].overridden(epochs=epochs, batch_size=16, teacher=64 * "0")
    state = new_state("tiny", recipe, 0, CPU, "fp32")
    state.teacher = Teacher(models.build("compact").eval())
    return state


@pytest.mark.parametrize("lacking", ["state", "recipe"])
def test_fit_refuses_a_state_and_a_recipe_that_disagree_about_the_teacher(lacking, few):
    state = distilled_state(few, epochs=1)
    if lacking == "state":
        state.teacher = None
    else:
        state.recipe = dataclasses.replace(state.recipe, teacher="none")
    with pytest.raises(UserError, match="teacher"):
        next(fit(state, few.train, few.test))


def test_every_step_has_the_teachers_logits_of_the_images_the_student_sees(few, monkeypatch):
    state, steps, seen = distilled_state(few, epochs=2), [], []

    def noted(logits, teacher_logits):
        steps.append(teacher_logits[0])
        return distillation_loss(logits, teacher_logits)

    monkeypatch.setattr(training, "distillation_loss", noted)
    state.raw.register_forward_pre_hook(lambda _model, inputs: seen.append(inputs))
    list(fit(state, few.train, few.test))
    parts = [part for epoch in (0, 1) for part in batches(len(few.train), 16, state.seed, epoch)]
    for part, (image, number), teacher_logits in zip(parts, seen, steps, strict=True):
        assert not torch.equal(image, normalised(few.train.images[part].unsqueeze(1)))  # augmented
        assert torch.equal(teacher_logits, state.teacher.logits(image, number)[0])


def test_a_teacher_changes_the_weights_that_are_trained(few):
    distilled, plain = distilled_state(few, epochs=1), distilled_state(few, epochs=1)
    plain.teacher, plain.recipe = None, dataclasses.replace(plain.recipe, teacher="none")
    assert bits(distilled.raw.state_dict()) == bits(plain.raw.state_dict())
    for state in (distilled, plain):
        list(fit(state, few.train, few.test))
    assert bits(distilled.raw.state_dict()) != bits(plain.raw.state_dict())


def train(**settings):
    """A run in this process, on the data of the fixture teacher_file."""
    with runs.opened(CPU, **settings) as run:
        run.announce()
        for row in fit(run.state, run.data.train, run.data.test):
            run.record(row)


@pytest.fixture
def teacher_file(few, monkeypatch, tmp_path):
    """The checkpoint of a model trained on noise, which then is the data of every run in this process."""
    monkeypatch.setattr(runs, "load", lambda *_: few)
    train(model="compact", epochs=1, save=True, output_dir=tmp_path / "teacher")
    return tmp_path / "teacher" / folder.CHECKPOINT


def test_a_loaded_teacher_has_the_logits_of_its_checkpoint(teacher_file, few):
    teacher, sha256 = load_teacher(teacher_file, few, CPU)
    model, stored = checkpoint.load_model(teacher_file, CPU)
    image, number = normalised(few.train.images.unsqueeze(1)), one_hot(few.train.digits)
    assert torch.equal(teacher.logits(image, number)[0], model(image, number)[0].detach())
    assert (teacher.content, sha256) == (teacher_file.read_bytes(), stored["sha256"])


@pytest.mark.parametrize("instead", ["nothing", "another checkpoint", "a folder"])
def test_a_distilled_run_does_not_resume_without_its_teacher(instead, teacher_file, tmp_path):
    path = tmp_path / "run" / folder.TEACHER
    train(model="tiny", epochs=1, teacher=teacher_file, save=True, output_dir=path.parent)
    before = outcome(path.parent)
    assert path.read_bytes() == teacher_file.read_bytes()
    path.unlink()
    if instead == "another checkpoint":
        path.write_bytes((path.parent / folder.CHECKPOINT).read_bytes())
    elif instead == "a folder":
        path.mkdir()
    with pytest.raises(
        UserError, match="a folder" if instead == "a folder" else "that the run began with"
    ) as error:
        train(resume=path.parent)
    assert str(path) in str(error.value) and outcome(path.parent) == before


def test_a_teacher_that_may_know_the_test_images_is_refused(teacher_file, few, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "load", lambda *_: dataclasses.replace(few, train=few.train.first(63)))
    with pytest.raises(UserError, match="trained on 64 images of noise, this run has 63 images") as error:
        train(model="tiny", teacher=teacher_file, output_dir=tmp_path / "run")
    assert str(teacher_file) in str(error.value) and not (tmp_path / "run").exists()


def test_a_teacher_that_has_not_done_an_epoch_is_refused(few, tmp_path):
    untrained = new_state("tiny", RECIPES["tiny"], 0, CPU, "fp32")
    checkpoint.save(tmp_path / "c", untrained, checkpoint.describe_data(few))
    with pytest.raises(UserError, match="has not done an epoch"):
        load_teacher(tmp_path / "c", few, CPU)


def test_a_stopped_distilled_run_resumes_exactly_without_the_file_it_was_given(sample, tmp_path):
    teacher, uninterrupted, stopped = (tmp_path / name for name in ("teacher", "uninterrupted", "stopped"))
    flags = ["--save", "--data", "sample", "--limit", 96, "--epochs"]
    assert forks.run("train.py", *flags, 2, "--output-dir", teacher, cwd=tmp_path)[::2] == (0, "")
    sha256 = checkpoint.load(teacher / folder.CHECKPOINT)["sha256"]
    flags += [20, "--teacher", teacher / folder.CHECKPOINT, "--output-dir"]
    assert forks.run("train.py", *flags, uninterrupted, cwd=tmp_path)[::2] == (0, "")
    pid = forks.start("train.py", [*flags, stopped], tmp_path / "out", tmp_path / "err", cwd=tmp_path)
    wait_for(lambda: epochs_done(stopped) >= 1)
    os.kill(pid, signal.SIGTERM)
    assert forks.wait(pid) == 143
    (teacher / folder.CHECKPOINT).unlink()
    assert forks.run("train.py", "--resume", stopped, "--report", cwd=tmp_path)[::2] == (0, "")
    assert outcome(stopped) == outcome(uninterrupted)
    assert outcome(stopped)["recipe"]["teacher"] == sha256
    text = (stopped / "report.md").read_text()
    assert f"divided\nby {TEMPERATURE:g}; the loss is {TEMPERATURE:g} times these two cross-entropies" in text


@pytest.mark.parametrize("found", ["this teacher", "another file", "a folder"])
def test_only_this_teacher_may_lie_in_the_place_of_its_copy(found, teacher_file, tmp_path):
    path = tmp_path / "run" / folder.TEACHER
    path.parent.mkdir()
    if found == "a folder":
        path.mkdir()
    else:
        path.write_bytes(teacher_file.read_bytes() if found == "this teacher" else b"precious")
    new_run = partial(train, model="tiny", epochs=1, teacher=teacher_file, save=True, output_dir=path.parent)
    if found == "this teacher":
        new_run()
    else:
        with pytest.raises(UserError, match=f"{path} already exists .* choose another --output-dir"):
            new_run()
        assert path.is_dir() or path.read_bytes() == b"precious"
