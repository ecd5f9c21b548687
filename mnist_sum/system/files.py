"""Files that are replaced whole or not at all, and folders with one writer at a time."""

import os
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_sum import console
from mnist_sum.console import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two runs into one folder are not kept apart
    fcntl = None


def write_atomically(path, content):
    """Replace the file at path by content (bytes); whoever reads it sees the old or the new, whole.

    Written to a temporary file in the same folder, flushed to the disk, then renamed. A device or a pipe
    is written to, not replaced. Raises UserError naming the path where the disk is full or the folder
    cannot be written; the old file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; free some space or choose another "
                    "folder") from error  # fmt: skip


def _sync_folder(folder):
    """Make a rename in the folder durable, where the system knows how."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder):
    """Create the folder if need be and make sure that it can be written to; raise UserError if not."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another folder") from error
    return folder


@contextmanager
def folder_lock(folder, wait=False):
    """Hold the folder for this process; raise UserError if another holds it, or wait for it.

    The lock is the kernel's (flock), so it is free again the moment its holder dies. Temporary
    files that a killed holder left behind are removed.
    """
    folder = Path(folder)
    try:
        file = open(folder / ".lock", "ab")  # noqa: SIM115  closed by the next line's with
    except OSError as error:
        raise UserError(f"cannot lock {folder}: {error.strerror}; choose another folder") from error
    with file:
        try:
            _lock(file)
        except OSError as error:
            if not wait:
                raise UserError(f"another run is writing into {folder}; wait for it or choose another "
                            "folder") from error  # fmt: skip
            console.warn(f"waiting for another process that is writing into {folder}")
            _lock(file, wait=True)
        for stale in folder.glob(".*.part"):
            with suppress(OSError):  # a folder of that name is nothing of ours
                stale.unlink()
        yield


def _lock(file, wait=False):
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
