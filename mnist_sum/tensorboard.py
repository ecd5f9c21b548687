"""What a run logs for TensorBoard, by PyTorch's own SummaryWriter."""

from pathlib import Path

import numpy as np
from PIL import Image

from mnist_sum.cli import UserError
from mnist_sum.data import Data
from mnist_sum.evaluation import predict_all
from mnist_sum.report import draw_samples
from mnist_sum.training import Row, TrainingState

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise UserError(f"no TensorBoard ({error}); run: pip install -e '.[tensorboard]'") from None


def open_writer(run_dir: Path, history: list[Row]) -> SummaryWriter:
    """A resumed run's epochs are logged again, in place of what it may have logged before."""
    writer = SummaryWriter(run_dir, purge_step=0)
    for row in history:
        add_row(writer, row)
    return writer


def add_row(writer: SummaryWriter, row: Row) -> None:
    """loss/train_digit, accuracy/test_sum, ..., lr and seconds of an epoch."""
    for name, value in row.items():
        front, _, kind = name.rpartition("_")  # train_digit_loss becomes loss/train_digit
        if name != "epoch":
            writer.add_scalar(f"{kind}/{front}" if front else name, value, int(row["epoch"]))
    writer.flush()


def add_pictures(writer: SummaryWriter, state: TrainingState, data: Data, run_dir: Path) -> None:
    """Draw samples.png and confusion.png in the run's folder, and log them as the last."""
    from mnist_sum.plots import draw_confusion

    draw_samples(state, data, run_dir / "samples.png")
    title = f"{state.name} on {data.name}"
    draw_confusion(predict_all(state.ema_model, data.test), title, run_dir / "confusion.png")
    for name in ("samples", "confusion"):
        picture = np.asarray(Image.open(run_dir / f"{name}.png").convert("RGB"))
        writer.add_image(name, picture, state.epoch, dataformats="HWC")
    writer.close()
