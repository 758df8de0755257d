"""scripts/setup.sh on systems that lack something: root has it installed, anybody else is told what and how."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "setup.sh"
if not SCRIPT.exists():
    pytest.skip("scripts/setup.sh is not beside these tests (they run on an installed wheel)", allow_module_level=True)

PACKAGES = ("build-essential", "bubblewrap", "python3-venv", "python3-dev")


@pytest.fixture
def system(tmp_path):
    """A system with a shell, a Python without ensurepip and headers, and nothing else: runs the script as a user."""
    for tool in ("bash", "dirname", "cat", "tail"):
        (tmp_path / tool).symlink_to(shutil.which(tool))

    def provide(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run(user: int, version: str = "3.12") -> subprocess.CompletedProcess[str]:
        provide("id", f"echo {user}")
        fails = "exit 1" if version < "3.11" else "exit 0"
        # What the script asks of it: its version (sys.exit), ensurepip, the folder of its headers.
        provide("python3", f"""case "$*" in
          -V) echo "Python {version}" ;;
          *version_info*) {fails} ;;
          *ensurepip*) exit 1 ;;
          *sysconfig*) echo {tmp_path}/include ;;
        esac""")  # fmt: skip
        return subprocess.run(
            [str(tmp_path / "bash"), str(SCRIPT), str(tmp_path / "venv"), "dev"],
            env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    run.provide = provide
    return run


def test_a_user_without_rights_is_told_the_one_line_that_installs_what_is_missing(system):
    done = system(1000)
    assert done.returncode == 1
    assert f"sudo apt-get install {' '.join(PACKAGES)}\n" in done.stderr
    assert done.stdout == ""


def test_root_has_the_same_packages_installed(system, tmp_path):
    system.provide("apt-get", f'echo "$*" >>{tmp_path}/asked; case "$*" in *install*) exit 3 ;; esac')
    done = system(0)
    assert (done.returncode, done.stdout) == (3, f"installing: {' '.join(PACKAGES)}\n")
    assert (tmp_path / "asked").read_text().splitlines()[1].endswith(" ".join(PACKAGES))


def test_an_old_or_absent_python_is_named_before_anything_is_installed(system, tmp_path):
    system.provide("apt-get", f"touch {tmp_path}/asked")
    done = system(0, "3.10")
    assert "gainrl needs Python 3.11 or newer, and python3 is Python 3.10" in done.stderr
    done = subprocess.run(
        [str(tmp_path / "bash"), str(SCRIPT), "venv", "dev"],
        env={"PATH": str(tmp_path), "PYTHON": "python3.99"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "no python3.99 here" in done.stderr
    assert not (tmp_path / "asked").exists()


def test_the_readme_names_every_package():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in readme if "apt-get install" in line]
    assert set(PACKAGES) < set(line.split())
