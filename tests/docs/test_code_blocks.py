"""Every Python and shell block of README.md and docs/ runs as it stands, a page's blocks one after the other.

A block that cannot run here has a line `<!-- not run: REASON -->` before it, and one that takes long
`<!-- full: REASON -->`, which runs with --full; both are reported as skips with their reason.  A page runs in a folder
of its own, a copy of `world`, where a small random model has the names that the pages use; with --full smollm2-135m is
the real one.  Python blocks share their names.  A block that begins with a comment that names a file
(`# my_tasks.py`) is written to that file as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>not run|full): (?P<reason>[^>]+?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.M | re.S,
)
RUN = ("python", "sh", "bash")
READ = {"json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads}
PYTHON_IN = {"docs/frameworks.md": "tests/integrations/torch_data/test_examples.py"}
"""Pages whose Python has a test of its own, with a dataset and a loop around it."""
LEFT = ("cmake", "text", "cpp")  # cmake and C++: examples/cpp is built by tests/angle/test_cpp.py

if not (ROOT / "docs").is_dir():
    pytest.skip("docs is not beside these tests (they run on an installed wheel)", allow_module_level=True)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language, and why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    code: str
    mark: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(page, line, match["language"], match["code"], match["mark"] or "", match["reason"] or ""))
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]
MARKED = [block for block in BLOCKS if block.mark and block.language in RUN]


WARNINGS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
WITH_FULL = [p for p in PAGES if any(b.mark == "full" or "smollm2-135m" in b.code for b in blocks(p))]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: str(page.relative_to(ROOT)))
@WARNINGS
def test_the_blocks_of_the_page_run(page, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GAINRL_CACHE", str(tmp_path / "cache"))
    run_page(page, ("",), world, tmp_path, monkeypatch, capsys)


@pytest.mark.full
@pytest.mark.model
@pytest.mark.parametrize("page", WITH_FULL, ids=lambda page: str(page.relative_to(ROOT)))
@WARNINGS
def test_the_blocks_that_take_long_run_too_and_with_the_real_model(page, world, tmp_path, monkeypatch, capsys):
    run_page(page, ("", "full"), world, tmp_path, monkeypatch, capsys)


def run_page(page, marks, world, tmp_path, monkeypatch, capsys) -> None:
    """Run the page's blocks that carry one of `marks`, in a copy of `world`."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "__main__"}
    name = str(page.relative_to(ROOT))
    for block in blocks(page):
        if block.mark not in marks:
            continue
        if named := re.match(r"# ([\w-]+\.\w+)\n", block.code):
            Path(named[1]).write_text(block.code, encoding="utf-8")
        if block.language == "python" and name in PYTHON_IN:
            assert (ROOT / PYTHON_IN[name]).exists()
        elif block.language == "python":
            exec(compile("\n" * block.line + block.code, block.page, "exec"), names)
        elif block.language in RUN:
            shell(block, monkeypatch, capsys)
        elif block.language in READ:
            check(block)
        else:
            assert block.language in LEFT, f"{block}: a block of language {block.language!r}"


def shell(block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands of gainrl in this process, which has torch loaded already; anything else by bash."""
    text = block.code.replace("\\\n", " ")
    commands = [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]
    if any(words[0] != "gainrl" for words in commands):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code], capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
        return
    from gainrl.cli import main

    for words in commands:
        monkeypatch.setattr("sys.argv", words)
        try:
            main()
            status: object = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            logging.getLogger("gainrl").setLevel(logging.NOTSET)
        said = capsys.readouterr()
        assert status == 0, f"{block}: {shlex.join(words)} ended with {status}: {said.out}{said.err}"


def check(block: Block) -> None:
    """Data parses; what describes a run has only names that there are."""
    data = READ[block.language](block.code)
    if isinstance(data, dict) and {"model", "output"} <= data.keys():
        pytest.importorskip("trl", reason="trl: pip install 'gainrl[trl]'")
        from gainrl.integrations.trl.run_config import RunConfig

        RunConfig.from_dict(data, str(block)).trainer_settings()


@pytest.mark.parametrize("block", MARKED, ids=str)
def test_a_block_that_is_not_run_says_why(block, request):
    assert len(block.reason.split()) >= 3, f"{block}: give a reason"
    if block.mark == "full" and request.config.getoption("--full"):
        return  # its page ran it
    pytest.skip(f"{block} is not run here: {block.reason}")


def test_every_marker_stands_before_a_block():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        markers = len(re.findall(r"^<!-- (?:not run|full):", text, flags=re.M))
        assert markers == sum(bool(block.mark) for block in blocks(page)), page
        assert text.count("\n```") + text.startswith("```") == 2 * len(blocks(page)), (
            f"{page}: a fence that is not seen"
        )
