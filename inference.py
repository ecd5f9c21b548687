"""Predict with a trained model, or test it: parse the flags, load, predict, print, draw."""

from mnist_sum import console  # alone: until run_script() Ctrl-C ends in a traceback


def main(argv):
    from mnist_sum import cli

    args = cli.parse_inference(argv)
    console.keep_stdout_for_json(args.json)

    from mnist_sum.runs.trained import load_all
    from mnist_sum.system.files import check_output

    models = load_all(args.checkpoint, args.device, args.model)
    if args.output and not args.plot_graph:
        check_output(args.output, [file for trained in models for file in trained.files])
    if args.image is not None:
        return predict_images(models[0].model, args.image, args.number, args.output)
    tests = [trained.test_data(args.data, args.data_dir) for trained in models]
    if len(models) > 1:
        return compare(models, tests, args.output)
    if args.evaluate:
        return evaluate(models[0], tests[0], args.output)
    return predict_random(models[0].model, tests[0], args.total, args.seed, args.output)


def predict_images(model, paths, number, output):
    """Your own images: print what each shows and the sums, draw them; 1 if one could not be read."""
    from mnist_sum.evaluation import predict, text
    from mnist_sum.figures.plots import LARGEST_COLUMN, draw_own_images

    pictures, failed = [], []
    files = predict.image_files(paths, output, failed)
    for cases, picture in predict.predict_files(model, files, number, failed):
        console.results(cases, text.image_text(cases, picture["doubts"]))
        pictures = [*pictures, picture][:LARGEST_COLUMN]
    if pictures:
        draw_own_images(pictures, output)
        console.note(text.picture_text(len(pictures), output))
    return 1 if failed else 0


def predict_random(model, data, total, seed, output):
    """Random test images with random numbers: print a table, draw a grid."""
    from mnist_sum.evaluation import predict, text
    from mnist_sum.figures.plots import LARGEST_GRID, draw_predictions

    cases = predict.predict_random(model, data.test, total, seed)
    console.results(cases, text.cases_table(cases))
    title, drawn = text.cases_title(cases, data.name), cases[:LARGEST_GRID]
    draw_predictions(data.test.images[[case["image"] for case in drawn]], drawn, title, output)
    console.note(f"{title} (seed {seed})\n{text.picture_text(len(drawn), output)}")


def evaluate(trained, data, picture_folder):
    """The exhaustive test of one model: print its figures, draw where it errs."""
    from mnist_sum.evaluation import errors, text
    from mnist_sum.figures.errors import draw_errors

    predictions, values, intervals = errors.evaluate_on(trained.model, data)
    console.results([values], text.figures_text(values, intervals))
    if picture_folder is not None:
        names = draw_errors(trained, data, predictions, picture_folder)
        console.note(f"pictures: {', '.join(names)} in {console.one_line(picture_folder)}")


def compare(models, tests, output):
    """The exhaustive test of several models: one table, one picture."""
    from mnist_sum.evaluation import errors, text
    from mnist_sum.figures.plots import draw_comparison

    rows = [errors.comparison(trained, data) for trained, data in zip(models, tests, strict=True)]
    console.results(rows, text.comparison_text(rows))
    draw_comparison(rows, "the exhaustive test", output)
    console.note(f"picture: {console.one_line(output)}")


if __name__ == "__main__":
    console.run_script(main, "inference.py")
