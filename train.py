"""Train a model: parse the flags, open the run, loop over the epochs that fit() yields."""

from mnist_sum import console  # alone: until run_script() Ctrl-C ends in a traceback


def main(argv):
    from mnist_sum import cli

    settings = vars(cli.parse_train(argv))
    device, json, summary, plot_graph, report = map(
        settings.pop, ("device", "json", "summary", "plot_graph", "report")
    )
    console.keep_stdout_for_json(json)

    from mnist_sum import runs
    from mnist_sum.system.device import keep_freed_memory
    from mnist_sum.system.processes import process_group
    from mnist_sum.training import fit

    keep_freed_memory()
    with process_group(device) as device, runs.opened(device, **settings) as run:
        run.announce(summary)
        for row in fit(run.state, run.data.train, run.data.test):
            run.record(row)
        run.finish(plot_graph, report)
    return run.exit_code


if __name__ == "__main__":
    console.run_script(main, "train.py")
