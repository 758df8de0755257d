"""Triton kernels of the op: rows are cut into chunks of equal length, one program each, whatever sequences they hold.

A sequence that lies within a chunk is finished by its program; one that spans chunks leaves a partial sum per chunk and
role, which `join_partials` adds in order.  Where a sequence spans many chunks, a launch with FOLDS has first added them
by groups of FOLD, all groups at the same time: one program reads partial sums one after the other, about a microsecond
each, and a long document has a thousand.  Every sum has a fixed order, so equal inputs give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Squared norms between these are as good as exact in float32 (as in csrc/angle/cpu_sequence.h).
SMALLEST_SQUARE = tl.constexpr(2.0**-80)
LARGEST_SQUARE = tl.constexpr(2.0**120)
NON_FINITE = tl.constexpr(8)
INVALID_ROLE = tl.constexpr(16)
FOLD = 32  # about the root of the chunks of half a million rows: both steps then take equally long
FOLDED = tl.constexpr(FOLD)

# What differs from batch to batch: a kernel compiled once serves every value (strides and the row width stay special).
VARIES = ("rows", "sequences", "chunk_rows", "shared_tokens", "role_skip")


@triton.jit
def _unit_rows(x, used):
    """Unit rows (zero where unused, zero or not finite); which rows count; how many used rows are not finite."""
    square = tl.sum(x * x, axis=1)
    safe = (square > SMALLEST_SQUARE) & (square < LARGEST_SQUARE)
    infinite = tl.sum((used & (square < 0)).to(tl.int32), axis=0)  # zero, with the type that the branch needs
    if tl.sum((used & (safe == 0)).to(tl.int32), axis=0) > 0:  # rare: the whole tile again, with care
        finite = tl.sum(((x - x) != 0).to(tl.int32), axis=1) == 0
        infinite += tl.sum((used & (finite == 0)).to(tl.int32), axis=0)
        x = tl.where(finite[:, None], x, 0.0)
        largest = tl.max(tl.abs(x), axis=1)  # divided by it, no square overflows or vanishes
        x = x / tl.where(largest > 0, largest, 1.0)[:, None]
        square = tl.sum(x * x, axis=1)
    counts = square > 0  # what is not used was loaded as zero
    return x * (1.0 / tl.sqrt(tl.where(counts, square, 1.0)))[:, None], counts, infinite


@triton.jit
def _write(
    b, question, prefix, q, p, flags, shared, shared_tokens, numbers, counts, directions, sums, sequences, width,
    columns, inside,
):  # fmt: skip
    """Results of sequence b from its own sums: products (3, B) and counts (3, B), for the host's last step."""
    if shared is not None:
        prefix += tl.load(shared + columns, mask=inside, other=0.0)
    square = tl.sum(question * question, axis=0)
    whole = question + prefix
    tl.store(numbers + b, square)
    tl.store(numbers + sequences + b, tl.sum(question * prefix, axis=0))
    tl.store(numbers + 2 * sequences + b, tl.sum(whole * whole, axis=0))
    tl.store(counts + b, flags.to(tl.int32))
    tl.store(counts + sequences + b, q.to(tl.int32))
    tl.store(counts + 2 * sequences + b, (p + shared_tokens).to(tl.int32))
    if directions is not None:
        defined = (square > 0) & ((flags & (NON_FINITE | INVALID_ROLE)) == 0)
        scale = tl.where(defined, 1.0 / tl.sqrt(tl.where(defined, square, 1.0)), 0.0)
        out = tl.where(defined, question * scale, 0.0)
        tl.store(directions + b * width + columns, out.to(tl.float32), mask=inside)
    if sums is not None:
        tl.store(sums + b * width + columns, whole.to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=VARIES)
def sum_chunks(
    hidden, roles, offsets, shared, shared_tokens, numbers, counts, directions, sums, slots, segments, sequences, width,
    chunk_rows, rows, stride_row, stride_column, skip, role_stride_row, role_skip, role_scale, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """One chunk: finished sequences go to the results, pieces to `slots` (n, 2, 2, width) and `segments` (n, 2, 4)."""
    chunk = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    low = chunk * chunk_rows
    t = tl.maximum(low, tl.load(offsets))
    high = tl.minimum(tl.minimum(low + chunk_rows, rows), tl.load(offsets + sequences))
    b, beyond = low * 0, low * 0 + sequences
    while beyond - b > 1:  # the last sequence that starts at or before row t
        middle = b + (beyond - b) // 2
        before = tl.load(offsets + middle) <= t
        b = tl.where(before, middle, b)
        beyond = tl.where(before, beyond, middle)
    while (t < high) & (b < sequences):
        start, end = tl.load(offsets + b), tl.load(offsets + b + 1)
        stop = tl.minimum(end, high)
        if stop > t:
            question = tl.zeros((WIDTH,), dtype=tl.float32)
            prefix = tl.zeros((WIDTH,), dtype=tl.float32)
            none = (t * 0).to(tl.int32)
            q, p, infinite, invalid = none, none, none, none
            row = t
            while row < stop:
                here = row + tl.arange(0, ROWS)
                role_at = here * role_stride_row + b * role_skip
                role = tl.load(roles + role_at, mask=here < stop, other=0).to(tl.int32) * role_scale
                used = (role == 1) | (role == 2)
                invalid += tl.sum(((role < 0) | (role > 2)).to(tl.int32), axis=0)
                at = here * stride_row + b * skip
                places = hidden + at[:, None] + columns[None, :].to(tl.int64) * stride_column
                x = tl.load(places, mask=used[:, None] & inside[None, :], other=0.0).to(tl.float32)
                unit, counted, bad = _unit_rows(x, used)
                infinite += bad
                question += tl.sum(tl.where((role == 2)[:, None], unit, 0.0), axis=0)
                prefix += tl.sum(tl.where((role == 1)[:, None], unit, 0.0), axis=0)
                q += tl.sum((counted & (role == 2)).to(tl.int32), axis=0)
                p += tl.sum((counted & (role == 1)).to(tl.int32), axis=0)
                row += ROWS
            flags = tl.where(infinite > 0, NON_FINITE, 0) | tl.where(invalid > 0, INVALID_ROLE, 0)
            if (start >= low) & (end <= low + chunk_rows):
                _write(
                    b, question, prefix, q, p, flags, shared, shared_tokens, numbers, counts, directions, sums,
                    sequences, width, columns, inside,
                )  # fmt: skip
            else:
                part = chunk * 2 + tl.where(start < low, 0, 1)
                tl.store(slots + part * 2 * width + columns, question, mask=inside)
                tl.store(slots + (part * 2 + 1) * width + columns, prefix, mask=inside)
                tl.store(segments + part * 4, b)
                tl.store(segments + part * 4 + 1, q.to(tl.int64))
                tl.store(segments + part * 4 + 2, p.to(tl.int64))
                tl.store(segments + part * 4 + 3, flags.to(tl.int64))
            t = stop
        b += 1


@triton.jit(do_not_specialize=VARIES)
def join_partials(
    offsets, shared, shared_tokens, numbers, counts, directions, sums, slots, segments, sequences, width, chunk_rows,
    FOLDS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program c finishes the sequence that begins in chunk c and goes on after it.

    With FOLDS it only adds FOLD chunks from c on into chunk c's partial sum, if c begins a group of a long sequence.
    """
    chunk = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    own = chunk * 2 + 1
    if FOLDS:
        own = tl.where(tl.load(segments + own * 4) >= 0, own, own - 1)
    b = tl.load(segments + own * 4)
    if (b >= 0) & (b < sequences):
        first = tl.load(offsets + b) // chunk_rows
        stop = tl.minimum((tl.load(offsets + b + 1) - 1) // chunk_rows + 1, tl.num_programs(0))
        long = stop - first > 2 * FOLDED
        step = tl.where(long, FOLDED, 1)  # what the launch with FOLDS has added already
        if FOLDS:
            begins = long & (chunk >= first) & (chunk < stop - 1) & ((chunk - first) % FOLDED == 0)
            stop = tl.where(begins, tl.minimum(chunk + FOLDED, stop), chunk)  # else there is nothing to add
            step = step * 0 + 1
        question = tl.zeros((WIDTH,), dtype=tl.float64)
        prefix = tl.zeros((WIDTH,), dtype=tl.float64)
        q, p, flags, c = b * 0, b * 0, b * 0, chunk
        while c < stop:
            part = tl.where(c == chunk, own, c * 2)
            # A foreign segment is met only where the offsets are out of order, which the host reports.
            mine = tl.load(segments + part * 4) == b
            there = columns < tl.where(mine, width, 0)
            question += tl.load(slots + part * 2 * width + columns, mask=there, other=0.0)
            prefix += tl.load(slots + (part * 2 + 1) * width + columns, mask=there, other=0.0)
            q += tl.where(mine, tl.load(segments + part * 4 + 1), 0)
            p += tl.where(mine, tl.load(segments + part * 4 + 2), 0)
            flags = flags | tl.where(mine, tl.load(segments + part * 4 + 3), 0)
            c += step
        if not FOLDS:
            _write(
                b, question, prefix, q, p, flags, shared, shared_tokens, numbers, counts, directions, sums, sequences,
                width, columns, inside,
            )  # fmt: skip
        elif begins:
            tl.debug_barrier()  # other warps may still read what this overwrites
            tl.store(slots + own * 2 * width + columns, question.to(tl.float32), mask=inside)
            tl.store(slots + (own * 2 + 1) * width + columns, prefix.to(tl.float32), mask=inside)
            tl.store(segments + own * 4 + 1, q)
            tl.store(segments + own * 4 + 2, p)
            tl.store(segments + own * 4 + 3, flags)
