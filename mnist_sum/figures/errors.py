"""Four pictures of where a model errs, from the exhaustive test's predictions."""

from mnist_sum.evaluation import errors
from mnist_sum.evaluation.occlusion import occlusion_maps
from mnist_sum.figures import plots
from mnist_sum.system.files import check_output, make_folder

MISTAKES = 20
PICTURES = ("confusion.png", "sum_grid.png", "reliability.png", "mistakes.png")


def draw_errors(trained, data, predictions, folder):
    """Draw the PICTURES into the folder, the last if there are mistakes; returns the drawn ones' names.

    predictions: the Trained model's exhaustive.Predictions for the test images of the Data. Raises UserError,
    before it draws, where a picture would replace one of the model's files.
    """
    folder, title = make_folder(folder), f"{trained.name} on {data.name}"
    for name in PICTURES:
        check_output(folder / name, trained.files)
    counts = [errors.confusion(predictions, output) for output in errors.OUTPUTS]
    plots.draw_confusion(*counts, title, folder / "confusion.png")
    plots.draw_sum_grid(errors.sum_grid(predictions), title, folder / "sum_grid.png")
    curves = {
        output: (*errors.reliability(predictions, output), errors.calibration_error(predictions, output))
        for output in errors.OUTPUTS
    }
    plots.draw_reliability(curves, title, folder / "reliability.png")
    mistakes = errors.confident_mistakes(predictions, MISTAKES)
    if not mistakes:
        return PICTURES[:3]
    heading = f"{title}: the most confident mistakes, with the probability of the wrong prediction"
    mistaken = data.test.images[[case["image"] for case in mistakes]]
    numbers = [case["number"] for case in mistakes]
    maps = [occlusion_maps(trained.model, *pair) for pair in zip(mistaken, numbers, strict=True)]
    plots.draw_occlusion(mistaken, mistakes, maps, heading, folder / "mistakes.png")
    return PICTURES
