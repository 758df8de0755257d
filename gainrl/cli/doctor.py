"""`gainrl doctor`: what works here, what does not, and why."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Show versions, backends of the op, devices, and whether code tasks can run isolated."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from gainrl import __version__
    from gainrl.angle import available_backends

    rows: list[tuple[str, str]] = [("gainrl", __version__), ("python", platform.python_version())]
    for package in ("torch", "triton", "transformers", "trl", "datasets", "accelerate", "peft", "vllm"):
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    rows += [(f"backend {name}", why) for name, why in available_backends().items()]
    rows.append(("devices", _devices()))
    from gainrl import tasks

    rows += [(part.part, f"{part.state}: {part.detail}") for part in tasks.doctor()]
    width = max(len(name) for name, _ in rows)
    for name, state in rows:
        typer.echo(f"{name:<{width}}  {state}")


def _devices() -> str:
    try:
        import torch
    except ImportError:
        return "cpu (no torch)"
    if not torch.cuda.is_available():
        return f"cpu ({torch.get_num_threads()} threads)"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
