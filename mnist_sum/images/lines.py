"""Ruled lines, of paper, tables and boxes: long, straight and thin."""

import numpy as np

from mnist_sum.images.mnist_like import Ink, Mask

THROUGH, THICKEST = 0.5, 0.06  # of the page: a line's length at least, and its width at most
DARKER = 1.5  # times a line's usual ink: a stroke's that runs along it
INKED = 0.65  # of a line: the ink of its own, that is no stroke's that crosses it


def line_pixels(ink: Ink, faintest: float, least: float) -> Mask:
    """The pixels (H, W) on lines of ink above faintest, at least this many long. Strokes across or along them stay."""
    return _level_lines(ink, faintest, least) | _level_lines(ink.T, faintest, least).T


def _level_lines(ink: Ink, faintest: float, least: float) -> Mask:
    mask, (height, width) = ink > faintest, ink.shape
    least = min(max(THROUGH * width, least), 0.9 * width)
    # the vertical run of ink that each pixel is in: a line's are short
    rows = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, -1, rows), axis=0)
    below = np.minimum.accumulate(np.where(mask, height, rows)[::-1], axis=0)[::-1]
    run = below - above - 1
    y, x = np.nonzero(mask & (rows == (above + below) // 2) & (run <= max(4, THICKEST * max(mask.shape))))
    # a Hough transform of the runs' middles: each slope's bins that hold enough of them
    step, on = max(2, max(mask.shape) // 500), np.zeros(len(y), bool)
    for slope in np.tan(np.radians(np.arange(-12, 12.1, 0.25))):
        bins = np.round((y - slope * x) / step).astype(int) + width  # at least 1
        counts = np.bincount(bins, minlength=2)
        is_line = counts[:-1] + counts[1:] > INKED * least  # of a bin and the next
        on |= np.append(is_line, False)[bins] | is_line[bins - 1]
    if not on.any():
        return np.zeros_like(mask)
    on[on] = run[y[on], x[on]] <= 1.6 * np.median(run[y[on], x[on]]) + 1  # no stroke along a line
    ends = np.zeros((height + 1, width), np.int8)
    ends[above[y[on], x[on]] + 1, x[on]], ends[below[y[on], x[on]], x[on]] = 1, -1
    return (ends[:-1].cumsum(0) > 0) & (ink < DARKER * np.median(ink[y[on], x[on]]))
