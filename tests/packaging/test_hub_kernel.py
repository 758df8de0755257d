"""The kernel repository that scripts/hub_kernel.py assembles, loaded by the real `kernels` package.

That package is installed into a folder of its own: where transformers and bitsandbytes find it, they look for kernels
of their own on the hub.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gainrl
from gainrl.angle.backends import native_module

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "hub_kernel.py"
KERNELS = "kernels>=0.17,<0.18"
LOAD = """
import sys, warnings
from pathlib import Path
import torch
import gainrl
sys.path.append(sys.argv[2])  # last, so that what is installed already stays as it is
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


@pytest.fixture(scope="module")
def load():
    """Loads a repository with the kernels package, in a process of its own: what that process says."""
    home = ROOT / "build" / "tests" / "kernels-0.17"
    if not (home / "kernels").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", home, KERNELS]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"the kernels package cannot be installed: {done.stderr[-300:]}")

    def run(folder: Path) -> str:
        done = subprocess.run([sys.executable, "-c", LOAD, folder, home], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.full
def test_kernels_loads_the_compiled_variant_beside_the_installed_package(script, load, tmp_path, require_backend):
    require_backend("native")
    script.assemble(Path(gainrl.__file__).parent, [Path(native_module().__file__)], tmp_path)
    said = load(tmp_path)  # kernels itself chooses the variant, and prefers the compiled one
    metadata = json.loads((tmp_path / "build/torch-stable-abi29-cpu-x86_64-linux/metadata.json").read_text())
    assert said.split() == [metadata["id"], "ok"]


@pytest.mark.full
def test_kernels_loads_the_variant_without_compiled_code_where_none_fits(script, load, tmp_path):
    folders = script.assemble(Path(gainrl.__file__).parent, [], tmp_path)
    assert [folder.name for folder in folders] == ["torch-cpu", "torch-cuda", "torch-rocm", "torch-xpu"]
    assert "installed without its compiled module" in load(tmp_path)


def test_an_import_that_a_kernel_cannot_have_is_refused(script):
    with pytest.raises(ValueError, match=r"imports gainrl\.table"):
        script.relative("from gainrl.table import ScoreTable\n", "x.py")


def test_every_variant_is_the_op_with_relative_imports_and_an_identity_of_its_own(script, tmp_path):
    folders = script.assemble(Path(gainrl.__file__).parent, [], tmp_path)
    identities = [json.loads((folder / "metadata.json").read_text())["id"] for folder in folders]
    assert len(set(identities)) == 4
    assert all(identity.isidentifier() for identity in identities)
    for path in folders[0].rglob("*.py"):
        assert script.relative(path.read_text(), path.name) == path.read_text()  # nothing is left to make relative
