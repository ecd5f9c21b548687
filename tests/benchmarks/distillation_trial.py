"""Temperature, weight decay, rate, batches, augmentation and epochs of a distilled `tiny`: validation errors.

    python train.py --model large --split validation --save --output-dir runs/teacher
    python tests/benchmarks/distillation_trial.py --data-dir DIR --teacher runs/teacher/checkpoint.safetensors

Students differ in the first three or in their first weights (the seed), and share every batch, which goes
through the teacher once. After some epochs it prints each one's errors, and the digit's loss, on the last
10,000 training images, which neither teacher nor students are trained on.
By hand; the tables are in mnist_sum/models/README.md.
"""

import argparse

import torch

from mnist_sum import loss
from mnist_sum.augment import affine_matrices
from mnist_sum.data import load
from mnist_sum.dataset import MnistSum, batches
from mnist_sum.evaluation.exhaustive import evaluate
from mnist_sum.metrics import averages, no_sums
from mnist_sum.models import find
from mnist_sum.recipes import RECIPES
from mnist_sum.runs.distillation import load_teacher
from mnist_sum.system.device import choose_device, choose_precision, keep_freed_memory
from mnist_sum.system.randomness import generator
from mnist_sum.training import learning_rate, moving_average, new_state, train_step, update_average

STUDENTS = ["2,1e-3,0.25", "4,1e-3,0.25", "4,3e-4,0.25", "8,1e-3,0.25", "8,3e-4,0.25"]
TESTED = (1, 5, 15, 35)  # the epochs after which there is a test, and after the last


class SharedTeacher:
    """A teacher that predicts a batch once for all students: until kept is None again."""

    def __init__(self, teacher):
        self.teacher, self.kept = teacher, None

    def logits(self, image, number):
        if self.kept is None:
            self.kept = self.teacher.logits(image, number)
        return self.kept


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--students", nargs="+", default=STUDENTS, metavar="T,DECAY,RATE")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--strength", type=float, default=1, help="of the augmentation (default: 1)")
    parser.add_argument("--seeds", type=int, default=2, help="first weights of each student (default: 2)")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--until", type=int, help="the epoch after which labels teach (default: none)")
    args = parser.parse_args()
    keep_freed_memory()
    device = choose_device("auto")
    data = load("mnist", args.data_dir, "validation")
    teacher, sha256 = load_teacher(args.teacher, data, device)
    teacher = SharedTeacher(teacher)
    recipe = RECIPES["tiny"].overridden(
        epochs=args.epochs, batch_size=args.batch_size, split="validation", teacher=sha256
    )
    train_set, test_set = MnistSum(data.train, device=device), MnistSum(data.test, device=device)
    students = []
    for student in args.students:
        temperature, weight_decay, rate = map(float, student.split(","))
        for seed in range(args.seeds):
            own = recipe.overridden(weight_decay=weight_decay, learning_rate=rate)
            state = new_state(find("tiny"), own, seed, device, choose_precision("auto", device))
            state.teacher, state.sums = teacher, no_sums(device)
            students.append((student, temperature, state))
    for epoch in range(args.epochs):
        train_set.set_epoch(epoch)
        if epoch == args.until:
            for *_, state in students:
                state.teacher = None
        parts = batches(len(train_set), recipe.batch_size, 0, epoch, device)
        draws = torch.rand(6, len(train_set), generator=generator(0, "affine", epoch)) * 2 - 1
        matrices = affine_matrices(args.strength * draws).to(device)
        for step, batch in enumerate(parts, epoch * len(parts)):
            teacher.kept = None
            for _, temperature, state in students:
                loss.TEMPERATURE = temperature
                rate = learning_rate(state.recipe, step, args.epochs * len(parts))
                state.optimizer.param_groups[0]["lr"] = rate
                train_step(state, state.raw, train_set, batch, matrices)
                update_average(*moving_average(state), step, len(parts))
        if epoch + 1 in (*TESTED, args.epochs):
            for student, _, state in students:
                figures = averages(evaluate(state.model, test_set))
                errors = round((1 - figures["digit_accuracy"]) * len(test_set))
                print(f"epoch {epoch + 1}: {student}, seed {state.seed}: {errors} errors, "
                      f"{figures['digit_loss']:.4f} nats", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
