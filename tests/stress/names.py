"""File and folder names of all kinds, and things of all kinds that lie there, given to short commands.

"Caught" is a refusal in one line, "harmless" a command whose work is there under exactly that name.
"""

import contextlib
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import forks
from PIL import Image, ImageDraw
from verdict import report

from mnist_sum import cli, runs, study, training
from mnist_sum.console import quiet
from mnist_sum.figures import plots  # noqa: F401  imported here so that no fork has to
from mnist_sum.runs import folder as run_folder

HANG = 120  # seconds
BEGINNINGS = (  # of the lines on stderr: an error, lines of the user's network, and with --json notes
    *("train.py: error: ", "inference.py: error: ", "mnist_sum.study: error: ", "warning: ", "  "),
    *("device: ", "model: ", "data: "),
)
TRAIN = "--data sample --epochs 1 --limit 32 --batch-size 16 --save"
NETWORK = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.all = nn.Linear(784 + 10, 29)

    def forward(self, image, number):
        from torch import cat

        return self.all(cat((image.flatten(1), number), 1)).split((10, 19), 1)
"""
DISTIL = f"train.py --model compact {TRAIN} --output-dir out --teacher NAME"
PREDICT = "inference.py --total 1 --data sample"
# The command; what lies at which place for it to succeed, and what then is there. NAME is the name.
COMMANDS = (
    (f"train.py --model compact {TRAIN} --output-dir NAME", "", "NAME", "NAME/checkpoint.safetensors"),
    ("train.py --resume NAME", "run", "NAME", "NAME/checkpoint.safetensors"),
    (DISTIL, "run", "NAME", "out/teacher.safetensors"),
    (DISTIL, "run/checkpoint.safetensors", "NAME", "out/teacher.safetensors"),
    (f"train.py --model NAME.py:Net {TRAIN} --output-dir out", "net.py", "NAME.py", "out/model.py"),
    (f"train.py {TRAIN} --data auto --data-dir NAME --output-dir x", "", "NAME", "x/checkpoint.safetensors"),
    (f"{PREDICT} --checkpoint NAME --output out.svg", "run", "NAME", "out.svg"),
    (f"{PREDICT} --checkpoint NAME --output out.svg", "run/checkpoint.safetensors", "NAME", "out.svg"),
    (f"{PREDICT} --output out.svg", "run", "runs/NAME", "out.svg"),
    (f"{PREDICT} --output NAME.svg", "", "NAME.svg", "NAME.svg"),
    (f"{PREDICT} --output NAME", "", "NAME", "NAME"),
    ("inference.py --image NAME --number 7 --output out.svg", "page.png", "NAME", "out.svg"),
    ("inference.py --image NAME --number 7 --json --output out.svg", "page.png", "NAME/NAME.png", "out.svg"),
    ("mnist_sum/study.py shortcuts --quick --output-dir NAME", "study", "NAME", "NAME/shortcuts.md"),
)
PIECES = (  # of names; the surrogates are bytes that are no UTF-8
    *("a", "b.c", "é", "数", "🂡", "\u0301", " ", "  ", "\t", "\n", "\r", "\x1b[31m", "\x1b]0;x\x07", "\x7f"),
    *("\x85", "\u2028", "\u202e", "\u2066", "\ufeff", "\u200b", "\udcff", "\udcc3", "\udced\udca0\udc80"),
    *("-", "--", "-x", "=", ",", ":", ";", "'", '"', "`", "\\", "\\n", "\\x1b", "!", "!!", "#", "&", "|"),
    *(">", "$", "$()", "$(touch x)", "${HOME}", "$x^2$", "$\\frac$", "<", "*", "?", "[a]", "[", "{}", "{0}"),
    *("{x", "%", "%s", "%n", "~", "@", "^", "_", ".", "..", ".py:X", ".png"),
)
OWN = (
    *(".lock", "checkpoint.safetensors", "history.csv", "settings.json", "row.json", "model.py", ".x.part"),
    *(f".mnist_sum-{'0' * 31}.part", "teacher.safetensors", "runs", "data", "MNIST", "compact", "tiny"),
    *("predictions.png", "None", "auto", "0", "train.py", "inference.py", "con", "nul", "-", "--", "--save"),
    *("-h", "--help", "@file", "~", "~root"),
)
LINKS = {"loop": "loop", "dead link": "nowhere", "link": "file", "link to folder": "", "device": "/dev/null"}
LINKS["endless device"] = "/dev/zero"
PLANTED = ("file", "folder", "fifo", *LINKS)


def misname(draw, cases, scratch):
    good, counts = scratch / "good", Counter()
    good.mkdir()
    forks.keep_sample()
    prepare(good)
    for case in range(cases):
        place = scratch / str(case) / "here"
        place.mkdir(parents=True)
        with contextlib.chdir(place):
            counts[misnamed(draw, good, scratch / "printed")] += 1
        subprocess.run(["rm", "-rf", place.parent], check=True)  # at any depth
    return counts


def prepare(good):
    """What the commands read: a run in its middle, a page with a digit, a network, a study's run."""
    settings = {
        "model": "compact",
        "data": "sample",
        "epochs": 2,
        "limit": 32,
        "batch_size": 16,
        "save": True,
    }
    with quiet(), runs.opened("cpu", output_dir=good / "run", **settings) as run:
        run.announce()
        run.record(next(training.fit(run.state, run.data.train, run.data.test)))
    page = Image.new("L", (60, 60), 255)
    ImageDraw.Draw(page).line(((15, 15), (45, 15), (25, 50)), fill=0, width=5)
    page.save(good / "page.png")
    (good / "net.py").write_text(NETWORK)
    with quiet():
        study.main(["shortcuts", "--quick", "--output-dir", str(good / "study")])
    (good / "study" / "shortcuts.md").unlink()


def some_name(draw):
    """A name of any kind that a system call takes: without NUL, and not empty."""
    kind = draw.choice(("text", "text", "text", "text", "long", "deep", "own", "own", "path", "path"))
    text = "".join(draw.choice(PIECES) for _ in range(draw.choice((1, 1, 2, 3, 6))))
    if kind == "long":
        return os.fsdecode((os.fsencode(text) * 300)[: draw.choice((200, 250, 251, 254, 255, 256, 1000))])
    if kind == "deep":  # near PATH_MAX, which is 4096 with the last NUL
        part = draw.choice(("a", "a", "数" * 20, "x" * 200, "x" * 255, "."))
        size = draw.choice((1000, 3800, 4000, 4060, 4070, 4090, 4095, 4096, 5000))
        return (f"{part}/" * 2500).encode()[:size].decode(errors="ignore").rstrip("/") or "a"
    if kind == "own":
        return draw.choice((*OWN, f"kept/{draw.choice(OWN)}", f"{draw.choice(OWN)}/{text}"))
    if kind == "path":
        here = os.getcwd()
        return draw.choice((
            f"./{text}", f"{text}/", f"{text}//", f"{text}/.", f"{text}/..", f"{text}/../b", f"kept/{text}/x",
            f"kept/../{text}", f"../{text}", f"{here}/{text}", f"/{here}/{text}", "kept", "kept/", ".", "./",
            "..", "../here", "kept/file", "kept/file/x", "nowhere/../x", "/dev/null/x", "/proc/self/cwd/x",
        ))  # fmt: skip
    return text


def plant(kind, at):
    """Something lies there already; where that cannot be, it does not."""
    at = at.rstrip("/")
    with contextlib.suppress(OSError):
        make_parents(at)
        if kind == "file":
            with open(at, "x") as file:
                file.write("precious")
        elif kind in LINKS:
            loop = os.path.basename(at)
            os.symlink(loop if kind == "loop" else os.path.abspath(os.path.join("kept", LINKS[kind])), at)
        else:
            {"folder": os.mkdir, "fifo": os.mkfifo}[kind](at)


def copy(source, at):
    """The file or folder lies there; where that cannot be, it does not."""
    make_parents(at)
    subprocess.run(["cp", "-rT", "--", source, at], stderr=subprocess.DEVNULL)


def make_parents(at):
    """By another program, as os.makedirs() calls itself once for each folder."""
    folder = os.path.dirname(at.rstrip("/")) or "."
    subprocess.run(["mkdir", "-p", "--", folder], stderr=subprocess.DEVNULL)


def misnamed(draw, good, printed):
    """What becomes of one command with one name, in the current folder."""
    name = some_name(draw)
    command, source, at, made = draw.choice(COMMANDS)
    at, made = at.replace("NAME", name), made.replace("NAME", name)
    os.mkdir("kept")
    Path("kept", "file").write_text("precious")
    planted = draw.choice((*["right"] * 12, "nothing", "nothing", "inside", "inside", *PLANTED))
    if planted == "inside":
        inside = draw.choice((*run_folder.WRITTEN, ".lock", "shortcuts.md", "training.png", "MNIST"))
        plant(draw.choice(PLANTED), f"{at}/{inside}")
    elif planted in PLANTED:
        plant(planted, at)
    elif source and (planted == "right" or source == "study"):
        copy(good / source, at)
    if source == "study" and os.path.isdir(Path(name)) and not os.path.exists(Path(name, "0")):
        copy(good / "study" / "0", os.fspath(Path(name, "0")))  # or it would train for seconds
    if name.startswith("-") and draw.random() < 0.8:
        command = command.replace(" NAME", "=NAME")  # else it is taken for a flag
    script, *argv = [word.replace("NAME", name) for word in command.split()]
    before = found()
    code, out, err = run(script, argv, printed)
    after = found()
    problems = wrong_prints(code, out, err) + wrong_files(code, made, name, before, after)
    problems += [hint for hint in hints(out + err) if not names(hint, made)]
    if "Traceback" in err or code not in (0, 1, 2):
        return report("tracebacks", f"{script} {argv!r:.2000}, {planted}: exit {code}, {err[-2000:]}")
    if problems:
        return report("lost", f"{script} {argv!r:.2000}, {planted}: exit {code}, {problems}, {err:.1000}")
    return "caught" if code else "harmless"


def run(script, argv, printed):
    """(exit code, stdout, stderr) of a fork of this process, which has imported everything."""
    for stream in ("out", "err"):
        printed.with_suffix(f".{stream}").write_bytes(b"")
    pid = os.fork()
    if not pid:
        signal.alarm(HANG)
        out, err = (str(printed.with_suffix(f".{stream}")) for stream in ("out", "err"))
        environment = {"MNIST_SUM_MIRROR": "http://127.0.0.1:9"}
        forks.become(str(forks.ROOT / script), argv, out, err, os.getcwd(), environment)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, *(printed.with_suffix(f".{stream}").read_bytes().decode() for stream in ("out", "err"))


def found():
    """{path: (kind, where a link leads, and of what is no folder inode, size, time)} of all around here."""
    listing = subprocess.run(
        ["find", os.path.dirname(os.getcwd()), "-printf", r"%p\0%y\0%l\0%i %s %T@\0"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    words = list(map(os.fsdecode, listing.split(b"\0")[:-1]))
    facts = zip(words[1::4], words[2::4], words[3::4], strict=True)
    return {path: fact[: 2 if fact[0] == "d" else 3] for path, fact in zip(words[::4], facts, strict=True)}


def real(path):
    """The path without links, but for its last name; x/. is x, as in pathlib."""
    path = Path(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def wrong_prints(code, out, err):
    """What is printed but must not be, a list."""
    lines = out.split("\n") + err.split("\n")
    wrong = [line for line in lines if not line.isprintable()]
    said = [line for line in err.splitlines() if ": error: " in line]
    if bool(code) != bool(said) or len(said) > 1:
        wrong.append(f"{len(said)} errors")
    if code == 1:
        wrong += [line for line in err.splitlines() if not line.startswith(BEGINNINGS)]
    return wrong


def wrong_files(code, made, name, before, after):
    """What has changed but must not, or was not made, a list."""
    made, written = real(made), {real(made)}
    if os.path.basename(made) in (run_folder.CHECKPOINT, run_folder.TEACHER, run_folder.SOURCE):
        written = {*run_folder.WRITTEN, run_folder.TEACHER, run_folder.SOURCE}
        written = {os.path.join(os.path.dirname(made), each) for each in written}
    data = os.path.join(os.path.realpath(os.path.join(name, "MNIST", "raw")), "")
    folders = (data, made, os.path.join(os.getcwd(), name, ""))  # x/.. needs x
    wrong = []
    for path in before.keys() | after.keys():
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if old is None and new[0] == "d" and any(each.startswith(f"{path}/") for each in folders):
            continue
        if old is None and new[0] == "f" and os.path.basename(path) == ".lock":
            continue
        if code or path not in written or new is None or new[0] != "f" or old and old[0] not in "fl":
            wrong.append((path[-300:], old, new))
    if code == 0 and (after.get(made) == before.get(made) or os.path.getsize(made) < 100):
        wrong.append(f"no {made[-300:]}")
    return wrong


def hints(printed):
    """The commands that it tells to give next, from the script's name on."""
    for line in printed.splitlines():
        if line.startswith("next: "):
            yield line
        elif " already holds a run; resume it with " in line:
            yield line.partition(" resume it with ")[2].rpartition(", or choose another")[0]


def names(hint, made):
    """Whether bash takes the command so that it names the folder."""
    words = hint.partition("python ")[2].removeprefix("-m ")  # without where a file is called inference.py
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], stdout=subprocess.PIPE, check=True
    ).stdout
    script, *argv = map(os.fsdecode, done.split(b"\0")[:-1])
    with contextlib.suppress(SystemExit):
        parsed = cli.parse_train(argv) if script.startswith("train") else cli.parse_inference(argv)
        folder = parsed.resume if script.startswith("train") else (parsed.checkpoint or [""])[0]
        return Path(folder) == Path(os.path.dirname(made))
    return False


ROWS = [("file and folder names", misname, 2_000)]
