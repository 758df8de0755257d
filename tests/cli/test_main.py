"""The command line as a whole: verbs load alone, mistakes end with one message."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gainrl.cli import VERBS


def test_every_verb_has_help_that_fits_a_screen(run_cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for verb in VERBS:
        status, out, _ = run_cli([verb, "--help"])
        assert status == 0
        assert "Usage" in out
        assert f"Example: gainrl {verb}" in out
        assert len(out.splitlines()) <= 40, verb


def test_the_help_lists_every_verb(run_cli):
    _, out, _ = run_cli(["--help"])
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scoer"], "'scoer'. Did you mean 'score'?"),
        (["eval", "--samples", "x"], "--samples"),
        (["report", "a", "--prompts", "-1"], "--prompts"),
        (["eval"], "Missing option '--model'"),
    ],
)
def test_what_typer_refuses_is_one_sentence(run_cli, words, said):
    status, out, err = run_cli(words)
    assert (status, out, err.startswith("gainrl: "), err.count("\n")) == (2, "", True, 1)
    assert said in err


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"]])
def test_help_needs_neither_torch_nor_transformers(arguments):
    code = (
        "import sys; sys.argv = ['gainrl', *sys.argv[1:]]\n"
        "from gainrl.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )
