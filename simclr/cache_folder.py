"""Where this user's own things lie that can be made again: copies, unpacked files, engines."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$SIMCLR_CACHE, else $XDG_CACHE_HOME/simclr, else ~/.cache/simclr. May not exist yet."""
    if own := os.environ.get("SIMCLR_CACHE"):
        return Path(own).absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).absolute() / "simclr"
    return Path.home() / ".cache" / "simclr"
