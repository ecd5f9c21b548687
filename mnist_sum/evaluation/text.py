"""Predictions and the exhaustive test's figures as lines to print, at most 100 columns wide."""

from mnist_sum.console import one_line


def cases_table(cases):
    """Predictions of random images, a line each; cases: as predict.predict_random gives them."""
    lines = ["        image  number   digit  predicted     sum  predicted"]
    for case in cases:
        lines.append(
            f"{case['image']:13}  {case['number']:6}  {case['digit']:6}  {case['predicted_digit']:9}  "
            f"{case['sum']:6}  {case['predicted_sum']:9}{'' if _correct(case) else '  wrong'}"
        )
    return "\n".join(lines)


def picture_text(count, path):
    """Of how many images there is a picture, and where."""
    return f"picture of {count} image{'s' if count > 1 else ''}: {one_line(path)}"


def cases_title(cases, data_name):
    """How many of the cases are correct."""
    digits, sums = (
        sum(case[name] == case[f"predicted_{name}"] for case in cases) for name in ("digit", "sum")
    )
    return f"{len(cases)} test images of {data_name}: {digits} digits and {sums} sums correct"


def _correct(case):
    return case["digit"] == case["predicted_digit"] and case["sum"] == case["predicted_sum"]


def image_text(cases, doubts):
    """An own image: a line for its digit or, of a page of several, a line a digit below those of its lines.

    cases, doubts: as predict.predict_files gives them; of a case the probabilities are fractions.
    """
    file = one_line(cases[0]["file"])
    answers = [_answer(case, doubt) for case, doubt in zip(cases, doubts, strict=True)]
    if len(cases) == 1:
        return f"{file}: {answers[0]}"
    count = cases[-1]["line"]
    lines = [f"{file}: {len(cases)} digits in {count} line{'s' if count > 1 else ''}"]
    for case, answer in zip(cases, answers, strict=True):
        place = f"line {case['line']}" if case["place"] == 1 else ""
        lines.append(f"  {place:8} {case['place']:3}  {answer}")
    return "\n".join(lines)


def _answer(case, doubt):
    return (
        f"digit {case['digit']} ({case['digit_probability']:.1%}), "
        f"{case['digit']} + {case['number']} = {case['sum']} ({case['sum_probability']:.1%})"
        f"{doubt and f'  {doubt}'}"
    )


def figures_text(values, intervals):
    """The exhaustive test of one model. values, intervals: of errors.evaluate_on."""
    wrong = values["digit_misread"] + values["addition_wrong"] + values["both_wrong"]
    lines = [f"{values['images']:,} test images of {values['data']}, each with ten numbers: "
             f"{values['cases']:,} cases"]  # fmt: skip
    for output, (low, high) in intervals.items():
        accuracy = values[f"{output}_accuracy"]
        lines.append(f"{output:>5} accuracy  {accuracy:8.3%}  (95% interval {low:.3%} to {high:.3%})")
    return "\n".join([
        *lines,
        f"accuracy lost from digit to sum: {values['gap']:.3%}",
        f"predicted sum = predicted digit + number in {values['consistency']:.3%} of the cases",
        f"wrong sums: {wrong:,}",
        f"{values['digit_misread']:9,} digit wrong, number added to it correctly",
        f"{values['addition_wrong']:9,} digit correct, addition wrong",
        f"{values['both_wrong']:9,} both wrong",
        f"correct sums in spite of a wrong digit: {values['errors_cancel']:,}",
        f"expected calibration error: digit {values['digit_calibration_error']:.3%}, "
        f"sum {values['sum_calibration_error']:.3%}",
    ])  # fmt: skip


def comparison_text(rows):
    """Two tables of several models: accuracies with 95% intervals, and causes of wrong sums.

    rows: as errors.comparison gives them.
    """
    numbered = [f"{number} {row['model']}" for number, row in enumerate(rows, 1)]
    accuracies = {"model": numbered, "params": [f"{row['parameters']:,}" for row in rows]}
    for output in ("digit", "sum", "joint"):
        percent = (map(_percent, (row[f"{output}_accuracy"], *row[f"{output}_interval"])) for row in rows)
        accuracies[f"{output} % (95%)"] = ["{} ({}-{})".format(*texts) for texts in percent]
    accuracies["images/s"] = [f"{row['images_per_second']:,.0f}" for row in rows]
    causes = {"digit_misread": "digit wrong", "addition_wrong": "addition wrong", "both_wrong": "both wrong",
              "errors_cancel": "errors cancel"}  # fmt: skip
    errors = {
        "model": numbered,
        "gap": [f"{row['gap']:.2%}" for row in rows],
        "consistent": [f"{row['consistency']:.2%}" for row in rows],
        **{title: [f"{row[cause]:,}" for row in rows] for cause, title in causes.items()},
    }
    return f"{_table(accuracies)}\n\n{_table(errors)}"


def _percent(fraction):
    """In at most five characters, as 100.0 or 99.71."""
    return f"{100 * fraction:.2f}"[:5]


def _table(columns):
    """{title: texts} as lines; the first column to the left, the others to the right."""
    widths = [max(map(len, (title, *texts))) for title, texts in columns.items()]
    lines = []
    for row in (columns, *zip(*columns.values(), strict=True)):
        first, *others = (f"{text:{'>' if i else '<'}{widths[i]}}" for i, text in enumerate(row))
        lines.append("  ".join((first, *others)))
    return "\n".join(lines)
