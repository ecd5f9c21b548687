"""Files that are written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from mnist_sum.cli import UserError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replace the file at path; a reader, or a killed run, sees the old content or the new."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is no file; give another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror}") from None
