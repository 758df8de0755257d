"""Triton kernels of the op: rows are cut into chunks of equal length, one program each, whatever sequences they hold.

A sequence that lies within a chunk is finished by its program.  Of one that spans chunks, however long, every program
adds its piece to the sequence's sums in `partials`, and `finish_spanning` reads them.  These sums are integers, in
units of 2^-31 of a unit row: whole numbers add up to the same in any order, so equal inputs give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Squared norms between these are as good as exact in float32 (as in csrc/angle/cpu_sequence.h).
SMALLEST_SQUARE = tl.constexpr(2.0**-80)
LARGEST_SQUARE = tl.constexpr(2.0**120)
FIXED = tl.constexpr(2.0**31)  # a sum of up to 2^31 unit rows fits int64

# What differs from batch to batch: a kernel compiled once serves every value (strides and the row width stay special).
VARIES = ("rows", "sequences", "chunk_rows", "role_skip")


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
def _write(b, question, prefix, bad, shared, numbers, directions, sequences, width, columns, inside):
    """Results of sequence b from its own sums; bad: how many of its rows have a wrong value or role."""
    if shared is not None:
        prefix += tl.load(shared + columns, mask=inside, other=0.0)
    square = tl.sum(question * question, axis=0)
    whole = question + prefix
    tl.store(numbers + b, square)
    tl.store(numbers + sequences + b, tl.sum(question * prefix, axis=0))
    tl.store(numbers + 2 * sequences + b, tl.sum(whole * whole, axis=0))
    if directions is not None:
        defined = (square > 0) & (bad == 0)
        scale = tl.where(defined, 1.0 / tl.sqrt(tl.where(defined, square, 1.0)), 0.0)
        tl.store(directions + b * width + columns, (question * scale).to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=VARIES)
def sum_chunks(
    hidden, roles, offsets, shared, numbers, tallies, directions, partials, owners, sequences, width, chunk_rows, rows,
    stride_row, stride_column, skip, role_stride_row, role_skip, role_scale, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """One chunk.  tallies (4, B): question rows, prefix rows, rows that are not finite, roles that are none."""
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
                x_at = here * stride_row + b * skip
                pointers = hidden + x_at[:, None] + columns[None, :].to(tl.int64) * stride_column
                x = tl.load(pointers, mask=used[:, None] & inside[None, :], other=0.0).to(tl.float32)
                unit, counted, bad = _unit_rows(x, used)
                infinite += bad
                question += tl.sum(tl.where((role == 2)[:, None], unit, 0.0), axis=0)
                prefix += tl.sum(tl.where((role == 1)[:, None], unit, 0.0), axis=0)
                q += tl.sum((counted & (role == 2)).to(tl.int32), axis=0)
                p += tl.sum((counted & (role == 1)).to(tl.int32), axis=0)
                row += ROWS
            tl.atomic_add(tallies + b, q)
            tl.atomic_add(tallies + sequences + b, p)
            tl.atomic_add(tallies + 2 * sequences + b, infinite)
            tl.atomic_add(tallies + 3 * sequences + b, invalid)
            if (start >= low) & (end <= low + chunk_rows):
                wrong = infinite + invalid
                _write(b, question, prefix, wrong, shared, numbers, directions, sequences, width, columns, inside)
            else:  # its sums lie at the chunk in which it begins; the bounds are for offsets that are out of order
                home = tl.minimum(tl.maximum(start, 0) // chunk_rows, tl.num_programs(0) - 1)
                at = partials + home * 2 * width + columns
                tl.atomic_add(at, (question * FIXED).to(tl.int64), mask=inside)
                tl.atomic_add(at + width, (prefix * FIXED).to(tl.int64), mask=inside)
                tl.store(owners + chunk, b, mask=start >= low)
            t = stop
        b += 1


@triton.jit(do_not_specialize=VARIES)
def finish_spanning(
    shared, numbers, tallies, directions, partials, owners, sequences, width, WIDTH: tl.constexpr
):  # fmt: skip
    """Program c finishes the sequence that begins in chunk c and goes on after it."""
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    chunk = tl.program_id(0).to(tl.int64)
    b = tl.load(owners + chunk)
    if b >= 0:
        at = partials + chunk * 2 * width + columns
        question = tl.load(at, mask=inside, other=0).to(tl.float64) / FIXED
        prefix = tl.load(at + width, mask=inside, other=0).to(tl.float64) / FIXED
        bad = tl.load(tallies + 2 * sequences + b) + tl.load(tallies + 3 * sequences + b)
        _write(b, question, prefix, bad, shared, numbers, directions, sequences, width, columns, inside)
