"""`python -m mnist_sum.study NAME`: many small runs that answer one question about fusing two inputs.

  pairs      does a model add, or does it remember? Some pairs of digit and number are never trained on
  sums       two handwritten numbers of N digits, trained on their sum alone, never on a digit's label
  shortcuts  the same with single digits from 0 to 4, and only seven pairs of them in training: other
             readings of the digits give the same sums

Every run has a folder of its own below --output-dir. After a stop give the same command again: finished
runs are not repeated, and an unfinished one of pairs is resumed. The table there, and the picture of
pairs and sums, are updated after every run.
"""

from mnist_sum import console  # alone: until run_script() Ctrl-C ends in a traceback


def main(argv):
    from importlib import import_module

    from mnist_sum import cli
    from mnist_sum.system.files import folder_lock, make_folder

    flags = cli.parse_study(argv, __doc__)
    console.keep_stdout_for_json(flags.pop("json"))
    study = import_module(f"mnist_sum.studies.{flags.pop('name')}").study
    with folder_lock(make_folder(flags["output_dir"])):
        return study(**flags)


if __name__ == "__main__":
    console.run_script(main, "mnist_sum.study")
