"""The figures of the detector of images/novelty.py, as tables: `python -m tests.measure_novelty`.

What is no digit is the part "report" of no_digits.py, 600 images of each kind; what is a digit, the last
10,000 training images, or with --test the test images, which nothing was chosen by. It needs the full
MNIST and the extra `test`.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from mnist_sum import console, data, images
from mnist_sum.console import UserError
from mnist_sum.dataset import normalised, one_hot
from mnist_sum.evaluation.predict import predict
from mnist_sum.images import novelty
from mnist_sum.runs import trained
from mnist_sum.runs.folder import data_folder
from tests import no_digits
from tests.handwriting import drawn, strokes

COUNT, PAGES, SEED, FLAGGED = 600, 20, 4, 0.01
LIKE_DIGITS = "letters like digits"


def auroc(digits, others):
    """The probability that another thing scores above a digit; ties count half."""
    _, both = torch.cat((digits, others)).unique(return_inverse=True)
    counts = both.bincount()
    rank = counts.cumsum(0) - (counts - 1) / 2  # the mean rank of equal scores, from 1
    n, m = len(digits), len(others)
    return ((rank[both[n:]].double().sum() - m * (m + 1) / 2) / (n * m)).item()


def figures(digits, others):
    """{kind: (AUROC, share flagged where FLAGGED of the digits are)} of scores, and of "all kinds"."""
    threshold = digits.quantile(1 - FLAGGED)
    others = {**others, "all kinds": torch.cat([others[kind] for kind in others if kind != LIKE_DIGITS])}
    return {
        kind: (auroc(digits, found), (found > threshold).double().mean().item())
        for kind, found in others.items()
    }


def no_digit_images(digits, seed, count=COUNT):
    """{kind: uint8 (count, 28, 28)} of the part "report"."""
    kinds = {**{kind: kind for kind in no_digits.kinds("report")}, LIKE_DIGITS: no_digits.a_lookalike}
    return {name: no_digits.make(kind, "report", count, seed, digits) for name, kind in kinds.items()}


# --- digits as users draw them ------------------------------------------------------------------------------


def a_mouse_digit(part, rng, digits):
    """A digit as a mouse draws it: straight pieces, a round pen from thin to thick."""
    lines, step = [], int(rng.integers(1, 4))
    for line in strokes(int(rng.integers(10)), rng):
        corners = line[:-1:step] + line[-1:] if len(line) > 9 else line
        lines.append(["L", *((x + 0.5, y + 0.5) for x, y in corners)])
    return no_digits.stroked(lines, rng, jitter=0.01, wide=rng.uniform(2, 18))


def a_printed_digit(part, rng, digits):
    return no_digits.written("0123456789", no_digits.FONTS["report"][:4], rng)


def a_digit(part, rng, digits):
    return no_digits.enlarged(no_digits.pick(digits, rng)[0])


def digit_images(digits, seed):
    pages = [images.prepare(drawn(i % 10, np.random.default_rng([2026, i]))) for i in range(200)]
    return {
        "MNIST's, prepared as a user's image": no_digits.make(a_digit, "report", 2000, seed, digits),
        "synthetic pages (handwriting.py)": torch.stack(pages),
        "by mouse, thin to thick pens": no_digits.make(a_mouse_digit, "report", 1000, seed),
        "printed, in fonts never seen": no_digits.make(a_printed_digit, "report", 600, seed),
    }


def page(ink, rng):
    """The ink on paper, photographed: an RGB page."""
    paper = 245 - 25 * np.linspace(0, 1, 240)[:, None] - 205 * np.pad(ink, 40)
    paper = paper[..., None] + rng.normal(0, 4, (240, 240, 3))
    return Image.fromarray(paper.clip(0, 255).astype(np.uint8))


def pages_of(kind, digits):
    """(refused, flagged, neither) of PAGES whole pages with a thing of the kind."""
    seen = []
    for i in range(PAGES):
        rng = np.random.default_rng([SEED, i])
        try:
            seen.append(images.prepare(page(no_digits.ink_of(kind, "report", rng, digits), rng)))
        except UserError:
            continue
    flagged = novelty.unlike_digits(torch.stack(seen)).sum().item() if seen else 0
    return PAGES - len(seen), flagged, len(seen) - flagged


def share_flagged(pixels):
    return novelty.unlike_digits(pixels).double().mean().item()


# --- other measures -----------------------------------------------------------------------------------------


@torch.inference_mode()
def member_outputs(model, pixels):
    """(features (N, views · F), digit_logits (views, N, 10)): a view per shift or member."""
    features, outputs = [], []
    for part in pixels.split(500):
        image = normalised(part.unsqueeze(1))
        views = [(member, image.roll(shift, (2, 3))) for member in model.members for shift in model.shifts]
        found = [member[:-1](view) for member, view in views]
        logits = [member[-1](each) for (member, _), each in zip(views, found, strict=True)]
        features.append(torch.cat(found, 1))
        outputs.append(torch.stack(logits))
    return torch.cat(features), torch.cat(outputs, 1)


def entropy(probabilities):
    return -(probabilities * probabilities.clamp(min=1e-12).log()).sum(-1)


def model_measures(model, train):
    """A function from pixels to {measure: (N,)}: those that a model's outputs and features give."""
    features, digits = member_outputs(model, train.images)[0], train.digits
    means = torch.stack([features[digits == digit].mean(0) for digit in range(10)])
    precision = torch.linalg.pinv(torch.cov((features - means[digits]).T))
    unit = normalize(features, dim=1)

    def measures(pixels):
        found, outputs = member_outputs(model, pixels)
        probabilities = outputs.softmax(2)
        away = found.unsqueeze(1) - means
        return {
            "softmax": -outputs.mean(0).log_softmax(1).amax(1),
            "energy": -outputs.mean(0).logsumexp(1),
            "disagreement": entropy(probabilities.mean(0)) - entropy(probabilities).mean(0),
            "Mahalanobis": ((away @ precision) * away).sum(2).amin(1),
            "5th neighbour": -(normalize(found, dim=1) @ unit.T).topk(5).values[:, -1],
        }

    return measures


def reconstruction_measure(train):
    """The same of the distance to the training images' 50 principal components."""
    flat = train.images.flatten(1).float() / 255
    mean, axes = flat.mean(0), torch.linalg.eigh(torch.cov(flat.T)).eigenvectors[:, -50:]

    def measures(pixels):
        away = pixels.flatten(1).float() / 255 - mean
        return {"": (away - away @ axes @ axes.T).norm(dim=1)}

    return measures


def compare(split):
    """Print the share flagged and the AUROC of other measures and of the detector, by kind."""
    train = split.train[::8]
    sources = {
        f"`{name}`": model_measures(trained.load(name, "cpu").model, train) for name in ("tiny", "large")
    }
    sources["PCA"] = reconstruction_measure(train)
    sources["the detector"] = lambda pixels: {"": novelty.scores(pixels)}
    digits = split.test.images[::4]
    others = {kind: pixels[:150] for kind, pixels in no_digit_images(split.test, SEED, 150).items()}
    columns = {}
    for source, measures in sources.items():
        found = {kind: measures(pixels) for kind, pixels in others.items()}
        for name, of_digits in measures(digits).items():
            columns[f"{source} {name}"] = figures(of_digits, {kind: found[kind][name] for kind in others})
    for index, title, form in ((0, "AUROC", "{:.3f}"), (1, "flagged", "{:.0%}")):
        rows = [
            [kind, *(form.format(column[kind][index]) for column in columns.values())]
            for kind in next(iter(columns.values()))
        ]
        table([title, *columns], rows)


def milliseconds(passes, repeats):
    """The median time of each of the passes, taken in turns."""
    seconds = [[] for _ in passes]
    for _ in range(repeats + 1):
        for run, times in zip(passes, seconds, strict=True):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    return [1000 * statistics.median(times[1:]) for times in seconds]


@torch.inference_mode()
def speed(pixels):
    model = trained.load("tiny", "cpu").model
    numbers = one_hot(torch.arange(1000) % 10)
    one = [lambda: predict(model, pixels[0], 3), lambda: novelty.scores(pixels[:1])]
    many = [lambda: model(normalised(pixels[:1000].unsqueeze(1)), numbers),
            lambda: novelty.scores(pixels[:1000])]  # fmt: skip
    for count, passes, repeats in ((1, one, 500), (1000, many, 20)):
        tiny, detector = milliseconds(passes, repeats)
        share = f"{detector / tiny:.1%}"
        console.note(f"{count:,} at once: tiny {tiny:.3f} ms, the detector {detector:.3f} ms: {share}")


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    console.note("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n")


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m tests.measure_novelty", description=__doc__)
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST lies (default: as train.py's)")
    parser.add_argument(
        "--test", action="store_true", help="the test images instead of the last training ones"
    )
    parser.add_argument("--candidates", action="store_true", help="other measures beside it, by kind")
    parser.add_argument(
        "--pages", action="store_true", help="whole pages of no digits instead, by images.prepare"
    )
    parser.add_argument("--speed", action="store_true", help="only its time beside tiny's")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    split = data.load("mnist", data_folder(args.data_dir), "standard" if args.test else "validation")
    if args.speed:
        speed(split.test.images)
        return 0
    if args.candidates:
        compare(split)
        return 0
    if args.pages:
        rows = [[kind, *pages_of(kind, split.test)] for kind in no_digits.kinds("report")]
        table(["whole pages", "refused", "flagged", "neither"], rows)
        return 0
    seed = SEED + args.test  # so that what is drawn is new, too
    digits, others = split.test.images, no_digit_images(split.test, seed)
    users = {"MNIST's": digits, **digit_images(split.test, seed)}
    rows = [[name, len(pixels), f"{share_flagged(pixels):.1%}"] for name, pixels in users.items()]
    table(["digits", "images", "flagged"], rows)
    found = figures(novelty.scores(digits), {kind: novelty.scores(pixels) for kind, pixels in others.items()})
    every = torch.cat([pixels for kind, pixels in others.items() if kind != LIKE_DIGITS])
    rows = []
    for kind, (area, _) in found.items():
        rows.append([kind, f"{area:.4f}", f"{share_flagged(others.get(kind, every)):.1%}"])
    table(["no digits", "AUROC", "flagged"], rows)
    return 0


if __name__ == "__main__":
    console.run_script(main, "measure_novelty.py")
