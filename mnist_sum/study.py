"""`python -m mnist_sum.study NAME`: many small runs that answer one question about fusing two inputs.

  pairs      does a model add, or does it remember? Some pairs of digit and number are never trained on
  sums       two handwritten numbers of N digits, of which only their sum is told
  shortcuts  the same with digits 0 to 4 and seven of their pairs: sums do not tell the digits there

Every run has a folder of its own below --output-dir, so the command can be stopped at any time and
resumes where it was when it is given again. After every run the table and the picture there are new.
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
