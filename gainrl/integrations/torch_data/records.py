"""Which epoch a finished rollout belongs to: the one under way, or an earlier one that it comes back late from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gainrl.errors import UserError

Record = Mapping[str, Any]


def by_epoch(
    records: Iterable[Record], now: int, ids: Collection[str], late: bool
) -> tuple[list[Record], list[Record]]:
    """Records of epoch `now`, whose prompts are `ids`, and those of earlier ones; all without the field `epoch`.

    A record without that field is of epoch `now`, but with `late` of an earlier one if its prompt is not among `ids`.
    Raises UserError for an epoch that is still to come or none at all, and without `late` for an earlier one.
    """
    own: list[Record] = []
    earlier: list[Record] = []
    for record in records:
        epoch = record.get("epoch")
        if "epoch" in record:
            record = {name: value for name, value in record.items() if name != "epoch"}
        if epoch is None:
            (earlier if late and record.get("id") not in ids else own).append(record)
        elif type(epoch) is not int or not 0 <= epoch <= now:
            raise UserError(
                f"a rollout of prompt {record.get('id')!r} is of epoch {epoch!r}, and epoch {now} is under way: "
                "give sampler.navigator.epoch as it was when the prompt was handed out"
            )
        elif epoch < now and not late:
            raise UserError(
                f"a rollout of prompt {record.get('id')!r} is of epoch {epoch}, and epoch {now} is under way: "
                "observe(records, late=True) takes those of earlier epochs, too"
            )
        else:
            (earlier if epoch < now else own).append(record)
    return own, earlier
