"""Where this user's own things lie that can be made again: copies, unpacked files, engines."""

import os
from pathlib import Path

from simclr.errors import ConfigError


def cache_folder() -> Path:
    """$SIMCLR_CACHE, else $XDG_CACHE_HOME/simclr, else ~/.cache/simclr. May not exist yet."""
    if own := os.environ.get("SIMCLR_CACHE"):
        return Path(own).absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).absolute() / "simclr"
    return Path.home() / ".cache" / "simclr"


def own_folder(name: str) -> Path:
    """A folder there, made if need be, that nobody else may write to. Raises ConfigError if somebody may."""
    folder = cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not is_ours(folder):
        raise ConfigError(
            f"{folder}: others may write to it, so that nothing in it can be trusted. Run: chown $USER {folder} && chmod 700 {folder}"
        )
    return folder


def is_ours(path: Path) -> bool:
    """There, owned by this user, and writable by nobody else."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return os.name != "posix" or (stat.st_uid == os.geteuid() and not stat.st_mode & 0o022)
