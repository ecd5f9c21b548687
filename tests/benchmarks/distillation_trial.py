"""Temperature and weight decay of a distilled `tiny`: errors on validation images.

    python train.py --model large --split validation --save --output-dir runs/teacher
    python tests/benchmarks/distillation_trial.py --data-dir DIR --teacher runs/teacher/checkpoint.safetensors

Students that differ in these settings or in their first weights learn side by side: the same batches, the
same augmentation, and each batch goes through the teacher once. After some epochs it prints each one's
errors and loss on the last 10,000 training images, which neither teacher nor students are trained on.
By hand; the table is in mnist_sum/models/README.md.
"""

import argparse

from mnist_sum import loss
from mnist_sum.augment import random_matrices
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

SETTINGS = (2, 1e-3), (4, 1e-3), (4, 3e-4), (8, 1e-3), (8, 3e-4)  # temperature, weight decay
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
    parser.add_argument("--seeds", type=int, default=2, help="first weights of each student (default: 2)")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    keep_freed_memory()
    device = choose_device("auto")
    data = load("mnist", args.data_dir, "validation")
    teacher, sha256 = load_teacher(args.teacher, data, device)
    teacher = SharedTeacher(teacher)
    recipe = RECIPES["tiny"].overridden(epochs=args.epochs, split="validation", teacher=sha256)
    train_set, test_set = MnistSum(data.train, device=device), MnistSum(data.test, device=device)
    students = []
    for temperature, weight_decay in SETTINGS:
        for seed in range(args.seeds):
            own = recipe.overridden(weight_decay=weight_decay)
            state = new_state(find("tiny"), own, seed, device, choose_precision("auto", device))
            state.teacher, state.sums = teacher, no_sums(device)
            students.append((temperature, state))
    for epoch in range(args.epochs):
        train_set.set_epoch(epoch)
        parts = batches(len(train_set), recipe.batch_size, 0, epoch, device)
        matrices = random_matrices(len(train_set), generator(0, "affine", epoch), device)
        for step, batch in enumerate(parts, epoch * len(parts)):
            teacher.kept = None
            for temperature, state in students:
                loss.TEMPERATURE = temperature
                rate = learning_rate(recipe, step, args.epochs * len(parts))
                state.optimizer.param_groups[0]["lr"] = rate
                state.raw.train()
                train_step(state, state.raw, train_set, batch, matrices)
                update_average(*moving_average(state), step, len(parts))
        if epoch + 1 in (*TESTED, args.epochs):
            for temperature, state in students:
                figures = averages(evaluate(state.model, test_set))
                errors = round((1 - figures["digit_accuracy"]) * len(test_set))
                print(f"epoch {epoch + 1}: T {temperature}, weight decay "
                      f"{state.recipe.weight_decay:g}, seed {state.seed}: {errors} errors, "
                      f"{figures['digit_loss']:.4f} nats", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
