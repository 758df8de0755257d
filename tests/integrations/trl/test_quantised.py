"""`gainrl train` on a base quantised by bitsandbytes, with LoRA: real steps on the CPU.

In 8 bits alone: on a CPU with AVX512-BF16, bitsandbytes 0.50 packs 4-bit weights for inference at the first forward in
eval mode (ranking, generation), and its packed product has no gradient.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import place, train  # noqa: F401  (a fixture)
from trl_support import epoch_records, make_model

pytestmark = [
    pytest.mark.usefixtures("place"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*"),
]


@pytest.mark.full
def test_a_quantised_base_learns_through_its_adapter(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = make_model(tmp_path / "model", hidden_size=64, intermediate_size=128)  # blocks of 64 weights in a row
    quantised: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    options = {"quantization_config": quantised, "device_map": "cpu"}
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    result = train(model, model_options=options, lora=lora, training={"max_steps": 2, "save_steps": 2})
    assert result.finished
    kinds = {type(module).__name__ for module in result.trainer.model.modules()}
    assert "Linear8bitLt" in kinds
    moved = [p for name, p in result.trainer.model.named_parameters() if "lora_B" in name]
    assert moved
    assert any(torch.count_nonzero(parameter) for parameter in moved), "lora_B begins at zero"
    (record,) = epoch_records("out")[:1]
    assert math.isfinite(record["angle"])
    assert (Path("out/checkpoints/checkpoint-2") / "adapter_model.safetensors").exists()
