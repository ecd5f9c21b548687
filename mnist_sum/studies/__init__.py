"""What is learned about fusing two inputs: each study a file, run by `python -m mnist_sum.study NAME`.

A study is a module with `study(**flags) -> exit code`; flags are those of cli.parse_study that it has. It
does many runs, each in a folder of its own below output_dir. When a run is finished, its row, a dict of JSON
values with accuracies as fractions, is written into that folder (runs.series.row_of) and given to
console.results, and the Markdown table and the picture in output_dir are written anew. A command that is
given again resumes: it reads the rows of finished runs, which it also prints again, and goes on with the
others. README.md in this folder has the studies' questions, protocols and results.
"""
