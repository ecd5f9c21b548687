"""Predict with a trained model (random test images or your own pictures), or test it exhaustively."""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

from mnist_sum import __version__, cli


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inference.py", description=__doc__)
    add = parser.add_argument
    # fmt: off
    add("--checkpoint", nargs="+", action="extend", metavar="FILE", help="a file, a run's folder, or tiny, compact or large, which ship; several with --evaluate (default: the newest under runs/, else tiny)")
    add("--model", nargs="+", action="extend", default=[], type=cli.custom_model, metavar="FILE.py:NAME", help="the custom model that a checkpoint holds; its file is imported")
    add("--total", type=cli.positive_int, metavar="N", help="predict N random test images with random numbers (default: 25)")
    add("--seed", type=cli.nonnegative_int, metavar="N", help="decides which images and numbers (default: new ones each time)")
    add("--image", nargs="+", action="extend", metavar="PATH", help="predict your own pictures of a digit or a page of digits, or folders of pictures")
    add("--number", type=int, choices=range(10), metavar="0-9", help="the number to add to each digit; needed with --image")
    add("--evaluate", action="store_true", help="the exhaustive test: every test image with each of the ten numbers")
    add("--plot-graph", action="store_true", help="with --evaluate: draw where the model errs")
    add("--output", metavar="PATH", help="the picture (default: predictions.png or comparison.png), or the folder of --plot-graph (evaluation)")
    add("--data", default="auto", metavar="NAME", help="mnist, sample (5,000 images), auto (MNIST, else the sample; the default), or a folder of your own pictures with subfolders 0 to 9")
    add("--data-dir", metavar="DIR", help="where MNIST is (default: where the checkpoint's run had it, else $MNIST_SUM_DATA, else data)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...; auto: CUDA where available, else the CPU (default: auto)")
    add("--json", action="store_true", help="print JSON objects on stdout, all else on stderr")
    add("--version", action="version", version=f"mnist_sum {__version__}")
    # fmt: on
    args = parser.parse_args(argv)
    several = len(args.checkpoint or ()) > 1
    if args.evaluate and (args.total or args.image or args.number is not None or args.seed is not None):
        parser.error("--total, --seed, --image and --number are for predictions; --evaluate tests every image")
    if (several or args.plot_graph) and not args.evaluate:
        parser.error("several checkpoints, and --plot-graph, need --evaluate")
    if several and args.plot_graph:
        parser.error("--plot-graph draws where one model errs; give one checkpoint")
    if bool(args.image) != (args.number is not None):
        parser.error("--image needs --number, the number to add, and --number needs --image")
    if args.image and (args.total or args.seed is not None):
        parser.error("--total and --seed are for random test images, not for --image")
    return args


def main(argv: list[str]) -> int:
    args = parse_args(argv)

    # imported late: --help and wrong flags are answered at once
    from mnist_sum import checkpoint, evaluation, plots, predict, report
    from mnist_sum.device import choose_device, describe_device, keep_freed_memory
    from mnist_sum.images import image_files

    log = partial(print, file=sys.stderr if args.json else sys.stdout)

    def show(rows: list[dict], text: str) -> None:
        print("\n".join(map(json.dumps, rows)) if args.json else text, flush=True)

    keep_freed_memory()
    trained = [predict.load(path, args.device, args.model) for path in args.checkpoint or [checkpoint.newest()]]
    log(f"device: {describe_device(choose_device(args.device))}")
    for each in trained:
        log(f"model: {each}")
    model = trained[0].model

    if args.image:
        output = args.output or "predictions.png"
        files, problems = image_files(args.image)
        results: list[predict.PageResult] = []
        for file in files:
            try:
                result = predict.predict_file(model, file, args.number)
            except cli.UserError as error:
                problems.append(str(error))
                continue
            show(result.cases(), str(result))
            results = [*results, result][:12]  # of more there is no picture
        for problem in problems:
            print(f"inference.py: error: {problem}", file=sys.stderr)
        if results:
            plots.draw_pages(results, output)
            log(f"picture of {len(results)} file(s): {output}")
        return 1 if problems else 0

    tests = [checkpoint.data_of(each.info, args.data, args.data_dir) for each in trained]
    for each, data in zip(trained, tests, strict=True):
        log(f"data: {data.name}, {len(data.test):,} test images")
        if data.name == "sample" and each.info["data"]["name"] == "mnist":
            print("warning: the model was trained on these images: the sample is a part of MNIST", file=sys.stderr)
    data = tests[0]

    if args.evaluate and len(trained) == 1:
        predictions = evaluation.predict_all(model, data.test)
        values = evaluation.summarize(predictions, data.name)
        show([values], report.evaluation_text(values))
        if args.plot_graph:
            folder = Path(args.output or "evaluation")
            names = plots.draw_errors(model, trained[0].name, data, predictions, folder)
            log(f"pictures: {', '.join(names)} in {folder}")
    elif args.evaluate:
        output = args.output or "comparison.png"
        rows = [report.comparison_row(each, data) for each, data in zip(trained, tests, strict=True)]
        show(rows, report.comparison_text(rows))
        plots.draw_comparison(rows, "the exhaustive test", output)
        log(f"picture: {output}")
    else:
        output = args.output or "predictions.png"
        seed = int.from_bytes(os.urandom(4)) if args.seed is None else args.seed
        cases = predict.predict_random(model, data.test, args.total or 25, seed)
        show(cases, report.cases_text(cases))
        digits, sums = (sum(case[key] == case[f"predicted_{key}"] for case in cases) for key in ("digit", "sum"))
        title = f"{len(cases)} test images of {data.name}: {digits} digits and {sums} sums correct"
        drawn = cases[:100]
        plots.draw_cases(data.test.images[[case["image"] for case in drawn]], drawn, title, output)
        log(f"{title} (seed {seed})\npicture of {len(drawn)} image(s): {output}")
    return 0


if __name__ == "__main__":
    cli.run(main, "inference.py")
