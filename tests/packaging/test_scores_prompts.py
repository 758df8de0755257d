"""What a fresh installation must do: score 64 prompts with a real model, and agree with the definition.

Needs what `pip install` of the wheel brings, and pytest; run with every torch that is tried.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:torch")
def test_sixty_four_prompts_are_scored_as_the_definition_says(tmp_path):
    from tiny_models import make_model

    import gainrl
    from gainrl.angle.reference import TOLERANCE, angle_concentration_reference

    questions = [f"Tom has {k} apples and gives {k // 2} away. How many are left?" for k in range(64)]
    prompts = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": q}] for q in questions]
    scorer = gainrl.AngleScorer(make_model(tmp_path, texts=questions), dtype="float32", device="cpu")
    found = scorer.score(prompts)
    assert found.status == ["ok"] * 64

    for k in (0, 17, 63):  # each on a forward of its own, whole, without anything shared
        text = scorer.tokenizer.apply_chat_template(prompts[k], tokenize=False, add_generation_prompt=True)
        tokens = scorer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
        with torch.no_grad():
            hidden = scorer.model.model(input_ids=tokens["input_ids"]).last_hidden_state
        begin = text.rindex(questions[k])
        end = begin + len(questions[k])
        role = [2 if a < end and b > begin else 1 if b <= begin else 0 for a, b in tokens["offset_mapping"][0].tolist()]
        expected = angle_concentration_reference(hidden, None, np.array([role], dtype=np.int8))
        assert abs(found.score[k] - expected.score[0]) < 5 * TOLERANCE
    backends = gainrl.available_backends()
    assert backends["torch"] == "ok"
    print(torch.__version__, transformers.__version__, backends["native"])
