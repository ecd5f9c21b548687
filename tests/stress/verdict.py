"""What becomes of a case, its memory and time included; and bytes with some of them changed."""

import sys
import time

from mnist_sum.console import UserError

SECONDS = 5  # at most, of a case within this process
MEMORY = 50  # MB at most, beyond 1.5 times what the case reads


def report(what, evidence):
    """A case that should not have been, on stderr; returns what."""
    print(f"{what}: {evidence}", file=sys.stderr, flush=True)
    return what


def verdict(attempt, names, fits, size=0):
    """What becomes of a case: "caught" if attempt() raises a UserError of one line with all the names in it,
    "harmless" if it returns what fits, else "lost" or "tracebacks"; "lost", too, above the bounds.

    size: bytes of the file that it reads.
    """
    held, began = memory(reset=True), time.monotonic()
    end = _ended(attempt, names, fits)
    seconds, more = time.monotonic() - began, memory() - held
    if seconds > SECONDS or more > MEMORY * 2**20 + 1.5 * size:
        return report("lost", f"{names}: {seconds:.1f} s, {more >> 20} MB for a file of {size:,} bytes")
    return end


def _ended(attempt, names, fits):
    try:
        result = attempt()
        return "harmless" if fits(result) else report("lost", f"{names}: {repr(result).splitlines()[0]:.300}")
    except UserError as error:
        one_line = len(str(error).splitlines()) == 1 and all(name in str(error) for name in names)
        return "caught" if one_line else report("lost", repr(error))
    except BaseException as error:
        return report("tracebacks", repr(error)[:500])


def memory(reset=False):
    """The most bytes that this process has held since the last reset; 0 where Linux does not tell."""
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # the peak is what is held now
        with open("/proc/self/status") as file:
            (line,) = (line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    except OSError:
        return 0


def mutated(draw, content):
    """The bytes with one to three changes, each of one of six kinds, and never the same bytes."""
    changed = content
    while changed == content:
        for _ in range(draw.choice((1, 1, 2, 3))):
            changed = changed_once(draw, changed or b"\0")
    return changed


def changed_once(draw, content):
    at, until = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    until = min(until, at + draw.choice((1, 4, 100, 10**9)))
    bit, there = min(at, len(content) - 1), draw.randrange(len(content))
    until_here, piece, from_there = draw.choice((
        *[(bit, bytes([content[bit] ^ 1 << draw.randrange(8)]), bit + 1)] * 2,  # flipped
        (at, b"", len(content)),  # cut
        (at, b"", until),  # removed
        (at, draw.randbytes(draw.randint(1, 40)), at),  # inserted
        (at, draw.randbytes(min(until - at, 40)), until),  # replaced
        (there, content[at:until], there + until - at),  # moved
    ))  # fmt: skip
    return content[:until_here] + piece + content[from_there:]
