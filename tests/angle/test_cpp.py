"""The C++ target without Python: the example builds against it, runs, and agrees with the definition."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_cpp_example_builds_and_agrees_with_the_definition(tool):
    cmake, _ = tool("cmake"), tool("c++")
    folder = ROOT / "build" / "tests" / "cpp"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    for command in (
        [cmake, "-S", "examples/cpp", "-B", str(folder), *generator, "-DGAINRL_CUDA=OFF"],
        [cmake, "--build", str(folder)],
        [str(folder / "angle_example")],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "largest difference from the definition" in done.stdout
