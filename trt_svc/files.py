"""Files written whole or not at all, and where engines live."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from trt_svc.errors import OutputError, TrtSvcError, shown

DIRECTORY_VARIABLE = "TRT_SVC_ENGINE_DIR"

# Read once: the only way to read it is to set it, which other threads would notice.
_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name only when the block ends well."""
    if _is_special(path):
        found = "it is a device or a pipe, no file that could be replaced."
        raise OutputError(f"writing {shown(str(path))}", found, "Give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    except OSError as err:
        raise _unwritable(path, err) from err
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_UMASK)  # mkstemp makes private files
        part.replace(path)
    except OSError as err:
        if isinstance(err, TrtSvcError):
            raise
        raise _unwritable(path, err) from err
    finally:
        part.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """A device, a pipe: nothing that a file may take the place of."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def writable_folder(path: Path) -> None:
    """Makes a folder and tries to write there: better now than after the work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as err:
        raise _unwritable(path, err) from err


def _unwritable(path: Path, err: OSError) -> OutputError:
    found = f"it cannot be created there ({err.strerror or err})."
    return OutputError(f"writing {shown(str(path))}", found, "Choose another place, or check rights and space.")


def engine_directory() -> Path:
    """TRT_SVC_ENGINE_DIR, else `engines/` of a checkout, else the user's cache directory."""
    asked = os.environ.get(DIRECTORY_VARIABLE)
    if asked:
        try:
            return Path(asked).expanduser()
        except RuntimeError as err:  # an unknown ~user
            raise OutputError(
                f"{DIRECTORY_VARIABLE}={shown(asked)}", f"it is no folder ({err}).", "Set it to a path."
            ) from err
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "engines").is_dir():
        return checkout / "engines"
    return user_cache_path("trt_svc") / "engines"


def config_folder() -> Path:
    """`configs/` of the checkout, or its copy inside an installed package."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
