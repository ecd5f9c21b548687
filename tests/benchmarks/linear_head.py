"""Why `linear_adder` stalls: what its one linear layer can add, given digits of three kinds.

    python tests/benchmarks/linear_head.py --checkpoint RUN/checkpoint.safetensors --data-dir DIR

Trains a fresh layer of the same shape (20 -> 19, no bias) with the same loss on (a) perfect one-hot
digits, (b) the softmax of a trained linear_adder's digit logits, (c) those logits raw. Prints the sum
accuracy of each over the test images, with every number. By hand; a few minutes on a CPU.
"""

import argparse

import torch
from torch import nn

from mnist_sum.data import load
from mnist_sum.dataset import normalised, one_hot
from mnist_sum.runs.checkpoint import load_model

STEPS, BATCH, PEAK = 6000, 4096, 0.1


@torch.no_grad()
def digit_logits(model, split):
    parts = split.images.unsqueeze(1).split(1000)
    return torch.cat([model.encode(normalised(part)) for part in parts])


def trained_layer(features, digits, steps):
    """The layer after `steps` of Adam, one-cycle, on features (N, 10) joined with random numbers."""
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(20, 19, bias=False)
    optimizer = torch.optim.Adam(layer.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(digits), (BATCH,), generator=draw)
        number = torch.randint(10, (BATCH,), generator=draw)
        sum_logits = layer(torch.cat((features[index], one_hot(number)), 1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(sum_logits, digits[index] + number).backward()
        optimizer.step()
        schedule.step()
    return layer


@torch.no_grad()
def sum_accuracy(layer, features, digits):
    correct = 0
    for number in range(10):
        numbers = torch.full_like(digits, number)
        sum_logits = layer(torch.cat((features, one_hot(numbers)), 1))
        correct += (sum_logits.argmax(1) == digits + numbers).sum().item()
    return correct / (10 * len(digits))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="of a linear_adder")
    parser.add_argument("--data-dir", default="data", help="where MNIST lies (default: data)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each layer (default: {STEPS})")
    args = parser.parse_args()
    model, stored = load_model(args.checkpoint, torch.device("cpu"))
    if stored["model_name"] != "linear_adder":
        parser.error(f"{args.checkpoint} holds a {stored['model_name']}; a linear_adder is needed")
    torch.manual_seed(0)
    data = load("mnist", args.data_dir)
    train, test = digit_logits(model, data.train), digit_logits(model, data.test)
    kinds = {
        "perfect one-hot digits": (one_hot(data.train.digits), one_hot(data.test.digits)),
        "softmax of its digit logits": (train.softmax(1), test.softmax(1)),
        "its raw digit logits": (train, test),
    }
    print("| the layer is given | sum accuracy of a fresh layer |\n|---|---|")
    for kind, (train_features, test_features) in kinds.items():
        layer = trained_layer(train_features, data.train.digits, args.steps)
        print(f"| {kind} | {sum_accuracy(layer, test_features, data.test.digits):.2%} |", flush=True)
    print(f"\nits own digit accuracy: {(test.argmax(1) == data.test.digits).float().mean():.2%}; "
          f"its own sum accuracy: {sum_accuracy(model.layer1, test, data.test.digits):.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
