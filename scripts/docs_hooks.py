"""Hook of the documentation site: a line `<!-- help: VERB -->` becomes what `gainrl VERB --help` prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

MARKER = re.compile(r"^<!-- help: (\w+) -->$", re.MULTILINE)


def help_of(verb: str) -> str:
    """A heading and the help of a verb as a block of text; CalledProcessError for a verb that does not exist."""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "gainrl", verb, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=True)
    lines = [line.rstrip() for line in done.stdout.replace("python -m gainrl", "gainrl").strip().splitlines()]
    return "\n".join([f"### gainrl {verb}", "", "```text", *lines, "```"])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs: put the help in its places."""
    return MARKER.sub(lambda match: help_of(match[1]), markdown)
