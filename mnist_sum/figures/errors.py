"""Four pictures of where a model errs, from the exhaustive test's predictions."""

from mnist_sum.evaluation import errors
from mnist_sum.evaluation.occlusion import occlusion_maps
from mnist_sum.figures import plots
from mnist_sum.system.files import make_folder

MISTAKES = 20


def draw_errors(model, predictions, images, title, folder):
    """Draw confusion.png, sum_grid.png, reliability.png and, if there are mistakes, mistakes.png.

    predictions: the model's exhaustive.Predictions for the images, uint8 (N, 28, 28). Returns the pictures'
    names.
    """
    folder = make_folder(folder)
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
        return ["confusion.png", "sum_grid.png", "reliability.png"]
    heading = f"{title}: the most confident mistakes, with the probability of the wrong prediction"
    mistaken = images[[case["image"] for case in mistakes]]
    numbers = [case["number"] for case in mistakes]
    maps = [occlusion_maps(model, *pair) for pair in zip(mistaken, numbers, strict=True)]
    plots.draw_occlusion(mistaken, mistakes, maps, heading, folder / "mistakes.png")
    return ["confusion.png", "sum_grid.png", "reliability.png", "mistakes.png"]
