"""What an import costs, and what it must not need."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import gainrl",
        "import gainrl.curriculum",
        "import gainrl.table",
        "import gainrl.angle.reference",
        "import gainrl.cli; gainrl.cli.load(gainrl.cli.VERBS)",
    ],
)
def test_light_modules_load_neither_torch_nor_transformers(statement):
    assert not loaded_after(statement) & {"torch", "transformers", "datasets", "trl"}


def test_every_public_name_resolves():
    import gainrl

    for name in gainrl.__all__:
        assert getattr(gainrl, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = gainrl.nonsense
