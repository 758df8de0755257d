"""The section `lora`: a PEFT configuration that fits the model, found out before anything is loaded or replaced."""

from __future__ import annotations

import copy
import difflib
from typing import Any

import torch

from gainrl.errors import UserError
from gainrl.scoring import resolve_model


def lora_config(given: dict[str, Any] | None) -> Any:
    """PEFT's `LoraConfig` from the section `lora`; UserError without PEFT, or for names that it does not have."""
    if given is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("section 'lora' needs PEFT: pip install peft") from error
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", **given})
    except (TypeError, ValueError) as error:
        raise UserError(f"section 'lora': {error}") from error


def require_targets(adapter: Any, model: str, options: dict[str, Any]) -> None:
    """UserError if PEFT would not find the modules that `adapter` names, or one of them, in the model.

    The model is built from its configuration alone, without memory for its weights; one that cannot be is left to the
    loader, which says why.
    """
    from peft import inject_adapter_in_model
    from transformers import AutoConfig, AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM
    known = {name: options[name] for name in ("revision", "trust_remote_code", "token") if name in options}
    try:
        config = AutoConfig.from_pretrained(resolve_model(model), **known)
        with torch.device("meta"):
            skeleton = maker.from_config(config, **{k: v for k, v in known.items() if k[0] == "t"})
    except Exception:  # whatever it is, loading the model meets it again
        return
    modules = [name for name, _ in skeleton.named_modules()]
    tried = copy.deepcopy(adapter)
    tried.init_lora_weights = False  # some ways to start the weights look at the model's
    try:
        inject_adapter_in_model(tried, skeleton)
    except ValueError as error:
        raise UserError(f"section 'lora': {error}{_offer(_named(adapter), modules)}") from error
    for name in _named(adapter):
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            raise UserError(f"section 'lora': no module of the model is called {name!r}{_offer([name], modules)}")


def _named(adapter: Any) -> list[str]:
    """The modules that the section names one by one; none where it gives a pattern, or leaves the choice to PEFT."""
    targets = adapter.target_modules
    return [] if targets is None or isinstance(targets, str) else sorted(targets)


def _offer(asked: list[str], modules: list[str]) -> str:
    """What there is with names near to those asked for."""
    there = sorted({module.rpartition(".")[2] for module in modules if module} - {""})
    near = [found for name in asked for found in difflib.get_close_matches(name, there, n=2, cutoff=0.4)]
    return f" (near: {', '.join(dict.fromkeys(near))})" if near else ""
