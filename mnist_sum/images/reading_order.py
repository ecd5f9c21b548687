"""The order in which the digits of a page are read, from their boxes."""

import numpy as np

STEEPEST = 12  # degrees by which a page's lines rise or fall


def reading_order(boxes):
    """Boxes (left, top, right, bottom) -> the page's lines from top to bottom, each a list of the boxes'
    indices from left to right.

    Seen along its lines, a page's digits cover least of its height, and what they leave free lies between
    the lines. So the page may be askew, by up to STEEPEST degrees.
    """
    left, top, right, bottom = np.asarray(boxes, dtype=np.float64).T
    usual, candidates = np.median(bottom - top), []
    for degrees in np.arange(-STEEPEST, STEEPEST + 0.5, 0.5):
        centre = (top + bottom) / 2 - (left + right) / 2 * np.tan(np.radians(degrees))
        lines, covered = _overlapping(centre, (bottom - top) / 4)  # the middle half of each digit
        candidates.append((covered / usual + 0.05 * abs(degrees), abs(degrees), lines))
    *_, lines = min(candidates)
    return [sorted(line, key=lambda i: left[i] + right[i]) for line in lines]


def _overlapping(centre, half):
    """The intervals centre ± half, in groups that overlap: (lists of indices, the length covered in all)."""
    groups, covered, end = [], 0.0, -np.inf
    for i in np.argsort(centre - half):
        if centre[i] - half[i] > end:
            groups.append([])
            end = centre[i] - half[i]
        groups[-1].append(int(i))
        covered += max(0.0, centre[i] + half[i] - end)
        end = max(end, centre[i] + half[i])
    return groups, covered
