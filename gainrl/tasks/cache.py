"""Where things that are computed once are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$GAINRL_CACHE`, else `$XDG_CACHE_HOME/gainrl`, else `~/.cache/gainrl`."""
    if named := os.environ.get("GAINRL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gainrl"
