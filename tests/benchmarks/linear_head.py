"""Why `linear_adder` stalls: what its one linear layer can add, given digits of three kinds.

    python tests/benchmarks/linear_head.py --checkpoint RUN/checkpoint.pt --data-dir DIR

Trains a fresh layer of the same shape (20 -> 19, no bias) to the same loss on (a) perfect one-hot
digits, (b) the softmax of a trained linear_adder's digit logits, (c) those logits raw, and prints
the sum accuracy of each over the test images with every number. By hand; a few minutes on a CPU.
"""

import argparse

import torch
from torch import nn

from mnist_sum import checkpoint, dataset
from mnist_sum.dataset import normalised, one_hot

STEPS, BATCH, PEAK = 6000, 4096, 0.1
CPU = torch.device("cpu")


@torch.no_grad()
def digit_logits(model, split):
    parts = split.images.unsqueeze(1).split(1000)
    return torch.cat([model.encode(normalised(part)) for part in parts])


def trained_head(features, digits):
    """The layer after STEPS of Adam, one-cycle, on features (N, 10) joined with random numbers."""
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(20, 19, bias=False)
    optimizer = torch.optim.Adam(head.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=STEPS)
    for _ in range(STEPS):
        index = torch.randint(len(digits), (BATCH,), generator=draw)
        number = torch.randint(10, (BATCH,), generator=draw)
        sums = head(torch.cat((features[index], one_hot(number)), 1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(sums, digits[index] + number).backward()
        optimizer.step()
        schedule.step()
    return head


@torch.no_grad()
def sum_accuracy(head, features, digits):
    right = 0
    for number in range(10):
        numbers = torch.full_like(digits, number)
        sums = head(torch.cat((features, one_hot(numbers)), 1))
        right += (sums.argmax(1) == digits + numbers).sum().item()
    return right / (10 * len(digits))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = dataset.load("mnist", args.data_dir)
    model, stored = checkpoint.load_model(args.checkpoint, CPU)
    assert stored["model_name"] == "linear_adder", "the checkpoint of a linear_adder is needed"
    train, test = digit_logits(model, data.train), digit_logits(model, data.test)
    kinds = {
        "perfect one-hot digits": (one_hot(data.train.digits), one_hot(data.test.digits)),
        "softmax of its digit logits": (train.softmax(1), test.softmax(1)),
        "its raw digit logits": (train, test),
    }
    print("| the layer is given | sum accuracy of a fresh layer |\n|---|---|")
    for kind, (train_features, test_features) in kinds.items():
        head = trained_head(train_features, data.train.digits)
        print(f"| {kind} | {sum_accuracy(head, test_features, data.test.digits):.2%} |", flush=True)
    print(f"\nits own digit accuracy: {(test.argmax(1) == data.test.digits).float().mean():.2%}; "
          f"its own sum accuracy: {sum_accuracy(model.layer1, test, data.test.digits):.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
