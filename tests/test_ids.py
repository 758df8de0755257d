"""Content ids and the fingerprint: what they follow, and that they never change."""

from __future__ import annotations

from gainrl.ids import content_ids, fingerprint

GOLDEN_IDS = ["d28ded27958cc9f9-0", "708f7d3e3ddf5ba0-0"]
GOLDEN_FINGERPRINT = "f7553bff6874a5ecaca2b01aef5a056c"


def test_ids_follow_content_and_number_repeats():
    chat = [{"role": "user", "content": "a"}]
    ids = content_ids(["a", chat, "a", "b", "a", [{"content": "a", "role": "user"}]])
    stems = [name.rpartition("-")[0] for name in ids]
    assert stems[0] == stems[2] == stems[4]
    assert stems[1] == stems[5], "the order of a message's keys is not content"
    assert len(set(stems)) == 3, "text and a chat with that text are different prompts"
    assert [name.rpartition("-")[2] for name in ids] == ["0", "0", "1", "0", "2", "1"]


def test_ids_and_fingerprint_never_change():
    """They are in tables on users' disks; another value here orphans all of them."""
    ids = content_ids(["What is 2 + 3?", [{"role": "user", "content": "Größe?"}]])
    assert ids == GOLDEN_IDS
    assert fingerprint(ids) == GOLDEN_FINGERPRINT


def test_a_missing_key_of_a_message_is_no_content_so_file_formats_agree():
    plain = [{"role": "user", "content": "a"}]
    assert content_ids([plain]) == content_ids([[{"role": "user", "content": "a", "name": None}]])


def test_a_lone_surrogate_in_a_prompt_has_an_id():
    assert content_ids(["\ud800"])
