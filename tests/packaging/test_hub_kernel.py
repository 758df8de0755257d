"""The kernel repository that scripts/hub_kernel.py assembles, loaded by the real `kernels` package."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gainrl
from gainrl.angle.backends import native_module

pytest.importorskip("kernels", reason="kernels: pip install kernels")

SCRIPT = Path(__file__).parents[2] / "scripts" / "hub_kernel.py"
LOAD = """
import sys, warnings
from pathlib import Path
import torch
import gainrl
warnings.simplefilter("ignore")  # of huggingface_hub and sigstore
from kernels import get_loaded_kernels, get_local_kernel

kernel = get_local_kernel(Path(sys.argv[1]))
torch.manual_seed(0)
hidden, roles, offsets = torch.randn(30, 64), torch.full((30,), 2, dtype=torch.int8), torch.tensor([0, 12, 30])
roles[:5] = roles[12:15] = 1
ours = gainrl.angle_concentration(hidden, offsets, roles)
theirs = kernel.angle_concentration(hidden, offsets, roles)
assert type(theirs).__module__.startswith("gainrl_angle_cpu_"), type(theirs).__module__
assert not isinstance(theirs, gainrl.AngleConcentration)  # a copy of its own, beside the installed one
torch.testing.assert_close(theirs.values, ours.values, rtol=0, atol=2e-6)
prefix = kernel.shared_prefix(torch.randn(3, 64))
kernel.angle_concentration(hidden, offsets, roles, shared_prefix=prefix)
compiled = torch.compile(lambda h: kernel.angle_concentration(h, offsets, roles).score, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(hidden), ours.score, rtol=0, atol=2e-6)
print(get_loaded_kernels()[0].metadata.id, kernel.available_backends()["native"])
"""


@pytest.fixture(scope="module")
def script():
    if not SCRIPT.exists():
        pytest.skip("scripts/hub_kernel.py is not beside these tests (they run on an installed wheel)")
    spec = importlib.util.spec_from_file_location("hub_kernel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", LOAD, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_loads_the_compiled_variant_beside_the_installed_package(script, tmp_path, require_backend):
    require_backend("native")
    script.assemble(Path(gainrl.__file__).parent, [Path(native_module().__file__)], tmp_path)
    said = load(tmp_path)  # kernels itself chooses the variant, and prefers the compiled one
    metadata = json.loads((tmp_path / "build/torch-stable-abi29-cpu-x86_64-linux/metadata.json").read_text())
    assert said.split() == [metadata["id"], "ok"]


def test_kernels_loads_the_variant_without_compiled_code_where_none_fits(script, tmp_path):
    folders = script.assemble(Path(gainrl.__file__).parent, [], tmp_path)
    assert [folder.name for folder in folders] == ["torch-cpu", "torch-cuda", "torch-rocm", "torch-xpu"]
    assert "installed without its compiled module" in load(tmp_path)


def test_an_import_that_a_kernel_cannot_have_is_refused(script):
    with pytest.raises(ValueError, match=r"imports gainrl\.table"):
        script.relative("from gainrl.table import ScoreTable\n", "x.py")
