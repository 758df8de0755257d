"""The helper modules of this folder, and the code blocks of docs/frameworks.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper module tables

PAGE = Path(__file__).parents[3] / "docs" / "frameworks.md"


@pytest.fixture(scope="session")
def page_blocks() -> dict[str, list[str]]:
    """The page's Python blocks by the heading that they stand under."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL) for section in sections
    }
