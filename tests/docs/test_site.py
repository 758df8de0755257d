"""The documentation site builds without a warning, has every page and option, and needs nothing from elsewhere."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mkdocs", reason="mkdocs: pip install 'gainrl[docs]'")
ROOT = Path(__file__).parents[2]
if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("mkdocs.yml is not beside these tests (they run on an installed wheel)", allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text(page: Path) -> str:
    """The page's article as plain text."""
    article = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert article is not None, page
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", article[0])).split())


def test_the_reference_has_every_verb_the_public_names_and_the_environment(site):
    from gainrl.cli import VERBS

    page = text(site / "reference.html")
    names = ["angle_concentration", "cu_seqlens", "NON_FINITE", "load_curriculum", "prompts_per_batch", "score_dataset"]
    code = [*ROOT.glob("gainrl/**/*.py"), *ROOT.glob("csrc/**/*.cpp")]
    read = r"(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\()\s*\"(GAINRL_\w+)\""
    variables = {name for path in code for name in re.findall(read, path.read_text(encoding="utf-8"))}
    assert len(variables) >= 4
    wanted = [*(f"gainrl {verb}" for verb in VERBS), *names, *variables]
    assert [name for name in wanted if name not in page] == []


def test_files_of_examples_are_included_and_every_page_is_in_the_navigation(site):
    assert "GainRLTrainer(" in text(site / "training.html")
    assert "--8<--" not in "".join(text(page) for page in site.glob("*.html") if page.name != "404.html")
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = [page for entry in nav for page in entry.values()]
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert len(named) <= 9


def test_the_site_fetches_nothing_from_elsewhere(site):
    loads = re.compile(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\" >]+)")
    for page in site.rglob("*.html"):
        loaded = loads.findall(page.read_text(encoding="utf-8"))
        assert [address for address in loaded if "canonical" not in address] == [], page


def test_pages_are_written_as_the_rules_ask():
    done = subprocess.run(
        [sys.executable, "scripts/prose.py", *map(str, [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
