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
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(
            f"{folder}: cannot be made ({exc.strerror or exc}). Set SIMCLR_CACHE to a folder of your own."
        ) from exc
    if not is_ours(folder) or (os.name == "posix" and folder.stat().st_mode & 0o022):
        raise ConfigError(
            f"{folder}: others may write to it, so that nothing in it can be trusted. Run: chown $USER {folder} && chmod 700 {folder}"
        )
    return folder


def is_ours(path: Path) -> bool:
    """There, and owned by this user. Who else may write to it is its folder's matter."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return os.name != "posix" or stat.st_uid == os.geteuid()
