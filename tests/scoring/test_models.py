"""Model names: directories, the packaged model, and names that lead nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, load_tokenizer, model_identity, resolve_model
from gainrl.scoring.models import resolve_device


def test_the_identity_follows_the_weights_not_the_directory_or_dtype(make_model, tmp_path):
    model = make_model()
    for name in ("a", "b", "c"):
        model.save_pretrained(tmp_path / name)
    assert model_identity(str(tmp_path / "a")) == model_identity(str(tmp_path / "b"))
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "c")
    assert model_identity(str(tmp_path / "c")) != model_identity(str(tmp_path / "a"))


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights"):
        model_identity(str(tmp_path))
    with pytest.raises(UserError, match="no such directory"):
        resolve_model("./missing/model")


@pytest.mark.parametrize(
    ("device", "why"),
    [("toaster", "Expected one of cpu"), ("meta", "no data"), ("hpu", "No module named"), ("xpu", "not compiled with")],
)
def test_devices_that_cannot_be_used_are_refused_with_torchs_reason(device, why):
    with pytest.raises(UserError, match=rf"device '{device}' cannot be used .*: .*{why}.*; there are cpu"):
        resolve_device(device)


def test_a_device_out_of_memory_is_not_said_to_be_absent(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match="CUDA out of memory"):
        resolve_device("cpu")


@pytest.mark.model
def test_the_packaged_model_is_prepared_once_and_scores():
    first = resolve_model("smollm2-135m")
    assert resolve_model("smollm2-135m") == first
    tokenizer = load_tokenizer("smollm2-135m")
    assert tokenizer.chat_template
    scores = AngleScorer("smollm2-135m", dtype="float32").score(["The capital of France is Paris.", "2 + 3 = 5"])
    assert scores.status == ["ok", "ok"]
    assert ((scores.intra > 0) & (scores.intra < 1)).all()
    assert np.isfinite(scores.score).all()
