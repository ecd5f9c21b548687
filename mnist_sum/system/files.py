"""Files that are replaced whole or not at all, and folders with one writer at a time."""

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_sum import console
from mnist_sum.console import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two runs into one folder are not kept apart
    fcntl = None

LARGEST_TEXT = 16 << 20  # bytes: of a network's own file, a history, a row
TEMPORARY = ".mnist_sum-{}.part"  # with 32 hexadecimal digits, so that nobody can guess the name
_locks = {}  # {folder that this process holds: its open .lock file}


def write_atomically(path, content):
    """Replace the file at path by content (bytes); whoever reads it sees the old or the new, whole.

    Written to a new file in the same folder, flushed to the disk, then renamed. A symbolic link at path is
    replaced, not followed. Raises UserError naming the path where the disk is full, the folder cannot
    be written, or anything but a regular file is there (see check_output); the old file stays.
    """
    path = Path(path)
    check_output(path)
    _require_lock(path.parent)
    temporary = path.with_name(TEMPORARY.format(secrets.token_hex(16)))
    try:
        with open(temporary, "xb") as file:  # O_EXCL: never one that is there, nor through a link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C, too
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot write {path}: {error.strerror}; free some space or choose another "
                        "folder") from error  # fmt: skip


def check_output(path, inputs=()):
    """Raise UserError where no file can be written at path: a folder, a device, a pipe or one of the inputs.

    inputs: the paths of the files that the command reads; those that do not exist are ignored. Call it before
    the work as well.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return  # make_folder() tells where the folder cannot be made
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; give it another name") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device or a pipe"
        raise UserError(f"cannot write {path}: it is {kind}; give the name of a file")
    for each in (0, 1, 2, *inputs):  # the first three are the streams, as /dev/stdout is after `> file`
        with suppress(OSError, ValueError):
            if os.path.samestat(found, os.stat(each)):
                what = "read by" if each in inputs else "a stream of"
                raise UserError(f"cannot write {path}: it is {what} this command; give another name")


def read_regular(path, limit=LARGEST_TEXT):
    """The first bytes of the file at path, at most limit; OSError, at once, where it is a pipe, say."""
    with open(path, "rb", opener=_open_without_wait) as file:
        return file.read(limit)


def _open_without_link(path, flags):
    return _open_without_wait(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _open_without_wait(path, flags):
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


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
        probe = folder / TEMPORARY.format(secrets.token_hex(16))
        try:
            probe.touch(exist_ok=False)
        finally:  # at a signal, too
            probe.unlink(missing_ok=True)  # whoever took the lock meanwhile has removed it
    except (OSError, RecursionError) as error:  # mkdir() calls itself for each folder, perhaps a thousand
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write into {folder}: {reason}; choose another folder") from error
    return folder


@contextmanager
def folder_lock(folder, wait=False):
    """Hold the folder for this process; raise UserError if another holds it, or wait for it.

    The lock is the kernel's (flock), so it is free again the moment its holder dies. Temporary
    files that a killed holder left behind are removed. What this process then writes into the folder is
    refused once .lock is another file: the folder was deleted, and may be another process's by now.
    """
    folder = Path(folder)
    try:
        file = open(folder / ".lock", "ab", opener=_open_without_link)  # noqa: SIM115  closed by the next with
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
        for stale in folder.glob(TEMPORARY.format("?" * 32)):
            with suppress(OSError):  # a folder of that name is nothing of ours
                stale.unlink()
        _locks[folder] = file
        try:
            yield
        finally:
            _locks.pop(folder, None)  # where there is no flock, two may have held it


def _lock(file, wait=False):
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _require_lock(folder):
    """Raise UserError where this process held the folder, and what is there now is another."""
    if folder in _locks:
        with suppress(OSError):
            if os.path.samestat(os.fstat(_locks[folder].fileno()), os.stat(folder / ".lock")):
                return
        raise UserError(f"{folder}, or .lock in it, was deleted while this run was writing into it; start "
                        "the run again")  # fmt: skip
