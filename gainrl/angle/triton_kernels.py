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
VARIES = ("rows", "sequences", "length", "chunk_rows", "shared_tokens", "role_stride_batch")


@triton.jit
def _start(offsets, b, length, PADDED: tl.constexpr):
    if PADDED:  # noqa: SIM108 (a compile-time branch: only one side is compiled)
        start = b * length
    else:
        start = tl.load(offsets + b).to(tl.int64)
    return start


@triton.jit
def _sequence_of(offsets, t, sequences, length, PADDED: tl.constexpr):
    """The last sequence that starts at or before row t."""
    if PADDED:
        low = t // length
    else:
        low = t * 0
        high = low + sequences
        while high - low > 1:
            middle = low + (high - low) // 2
            before = tl.load(offsets + middle).to(tl.int64) <= t
            low = tl.where(before, middle, low)
            high = tl.where(before, high, middle)
    return low


@triton.jit
def _row_offsets(t, length, stride_batch, stride_row, PADDED: tl.constexpr):
    if PADDED:  # noqa: SIM108
        at = (t // length) * stride_batch + (t % length) * stride_row
    else:
        at = t * stride_row
    return at


@triton.jit
def _largest_first(x):
    """Rows divided by their largest magnitude, so that no square overflows or vanishes."""
    largest = tl.max(tl.abs(x), axis=1)
    return x / tl.where(largest > 0, largest, 1.0)[:, None]


@triton.jit
def _unit_rows(x, used):
    """Unit rows (zero where unused, zero or not finite); which rows count; how many used rows are not finite."""
    square = tl.sum(x * x, axis=1)
    safe = (square > SMALLEST_SQUARE) & (square < LARGEST_SQUARE)
    counts = used & safe
    unit = x * tl.where(counts, 1.0 / tl.sqrt(tl.where(counts, square, 1.0)), 0.0)[:, None]
    infinite = tl.sum((used & (square < 0)).to(tl.int32), axis=0)  # zero, with the type that the branch needs
    if tl.sum((used & (safe == 0)).to(tl.int32), axis=0) > 0:  # rare: the whole tile again, with care
        finite = tl.sum(((x - x) != 0).to(tl.int32), axis=1) == 0
        y = _largest_first(tl.where(finite[:, None], x, 0.0))
        exact = tl.sum(y * y, axis=1)
        counts = used & finite & (exact > 0)
        unit = y * tl.where(counts, 1.0 / tl.sqrt(tl.where(counts, exact, 1.0)), 0.0)[:, None]
        infinite += tl.sum((used & (finite == 0)).to(tl.int32), axis=0)
    return unit, counts, infinite


@triton.jit
def _write(
    b, question, prefix, q, p, flags, numbers, counts, directions, sums, sequences, width, columns, inside,
    DIRECTIONS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Results of sequence b from its sums: products (3, B) and counts (3, B), for the host's last step."""
    square = tl.sum(question * question, axis=0)
    whole = question + prefix
    tl.store(numbers + b, square)
    tl.store(numbers + sequences + b, tl.sum(question * prefix, axis=0))
    tl.store(numbers + 2 * sequences + b, tl.sum(whole * whole, axis=0))
    tl.store(counts + b, flags)
    tl.store(counts + sequences + b, q)
    tl.store(counts + 2 * sequences + b, p)
    if DIRECTIONS:
        defined = (square > 0) & ((flags & (NON_FINITE | INVALID_ROLE)) == 0)
        scale = tl.where(defined, 1.0 / tl.sqrt(tl.where(defined, square, 1.0)), 0.0)
        out = tl.where(defined, question * scale, 0.0)
        tl.store(directions + b * width + columns, out.to(tl.float32), mask=inside)
    if SUMS:
        tl.store(sums + b * width + columns, whole.to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=VARIES)
def sum_chunks(
    hidden, roles, offsets, shared, shared_tokens, numbers, counts, directions, sums, slots, segments, rows, sequences,
    width, length, chunk_rows, stride_batch, stride_row, stride_column, role_stride_batch, role_stride_row, role_scale,
    PADDED: tl.constexpr, SHARED: tl.constexpr, DIRECTIONS: tl.constexpr, SUMS: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """One chunk: finished sequences go to the results, pieces to `slots` (n, 2, 2, width) and `segments` (n, 2, 4)."""
    chunk = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    low = chunk * chunk_rows
    high = tl.minimum(low + chunk_rows, rows)
    t = tl.maximum(low, _start(offsets, low * 0, length, PADDED))
    high = tl.minimum(high, _start(offsets, low * 0 + sequences, length, PADDED))
    b = low * 0 + sequences
    if t < high:
        b = _sequence_of(offsets, t, sequences, length, PADDED)
    while (t < high) & (b < sequences):
        start = _start(offsets, b, length, PADDED)
        end = _start(offsets, b + 1, length, PADDED)
        stop = tl.minimum(end, high)
        if stop > t:
            question = tl.zeros((WIDTH,), dtype=tl.float32)
            prefix = tl.zeros((WIDTH,), dtype=tl.float32)
            q = (t * 0).to(tl.int32)
            p = (t * 0).to(tl.int32)
            infinite = (t * 0).to(tl.int32)
            invalid = (t * 0).to(tl.int32)
            row = t
            while row < stop:
                here = row + tl.arange(0, ROWS)
                role_at = _row_offsets(here, length, role_stride_batch, role_stride_row, PADDED)
                role = tl.load(roles + role_at, mask=here < stop, other=0).to(tl.int32) * role_scale
                used = (role == 1) | (role == 2)
                invalid += tl.sum(((role < 0) | (role > 2)).to(tl.int32), axis=0)
                at = _row_offsets(here, length, stride_batch, stride_row, PADDED)
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
                if SHARED:
                    prefix += tl.load(shared + columns, mask=inside, other=0.0)
                _write(
                    b, question, prefix, q, p + shared_tokens, flags, numbers, counts, directions, sums, sequences,
                    width, columns, inside, DIRECTIONS, SUMS,
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


@triton.jit
def _sum_parts(c, stop, step, first, b, slots, segments, columns, width, WIDTH: tl.constexpr):
    """Sums and counts of sequence b's segments in chunks c, c + step, ... before `stop`; it begins in chunk `first`."""
    question = tl.zeros((WIDTH,), dtype=tl.float64)
    prefix = tl.zeros((WIDTH,), dtype=tl.float64)
    q, p, flags = b * 0, b * 0, b * 0
    while c < stop:
        part = c * 2 + tl.where(c == first, 1, 0)
        # A foreign segment is met only where the offsets are out of order, which the host reports.
        mine = tl.load(segments + part * 4) == b
        there = columns < tl.where(mine, width, 0)
        question += tl.load(slots + part * 2 * width + columns, mask=there, other=0.0)
        prefix += tl.load(slots + (part * 2 + 1) * width + columns, mask=there, other=0.0)
        q += tl.where(mine, tl.load(segments + part * 4 + 1), 0)
        p += tl.where(mine, tl.load(segments + part * 4 + 2), 0)
        flags = flags | tl.where(mine, tl.load(segments + part * 4 + 3), 0)
        c += step
    return question, prefix, q, p, flags


@triton.jit(do_not_specialize=VARIES)
def join_partials(
    offsets, shared, shared_tokens, numbers, counts, directions, sums, slots, segments, sequences, width, length,
    chunk_rows, PADDED: tl.constexpr, SHARED: tl.constexpr, DIRECTIONS: tl.constexpr, SUMS: tl.constexpr,
    FOLDS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program c finishes the sequence that begins in chunk c and goes on after it.

    With FOLDS it only adds FOLD chunks from c on into chunk c's partial sum, if c begins a group of a long sequence.
    """
    chunk = tl.program_id(0).to(tl.int64)
    b = tl.load(segments + (chunk * 2 + 1) * 4)
    if FOLDS:
        b = tl.where(b >= 0, b, tl.load(segments + chunk * 2 * 4))
    if (b >= 0) & (b < sequences):
        columns = tl.arange(0, WIDTH)
        inside = columns < width
        first = _start(offsets, b, length, PADDED) // chunk_rows
        last = (_start(offsets, b + 1, length, PADDED) - 1) // chunk_rows
        last = tl.minimum(last, tl.num_programs(0) - 1)
        if FOLDS:
            if (last - first >= 2 * FOLDED) & (chunk >= first) & (chunk < last) & ((chunk - first) % FOLDED == 0):
                own = chunk * 2 + tl.where(chunk == first, 1, 0)
                question, prefix, q, p, flags = _sum_parts(
                    chunk, tl.minimum(chunk + FOLDED, last + 1), 1, first, b, slots, segments, columns, width, WIDTH
                )
                tl.debug_barrier()  # other warps may still read what this overwrites
                tl.store(slots + own * 2 * width + columns, question.to(tl.float32), mask=inside)
                tl.store(slots + (own * 2 + 1) * width + columns, prefix.to(tl.float32), mask=inside)
                tl.store(segments + own * 4 + 1, q)
                tl.store(segments + own * 4 + 2, p)
                tl.store(segments + own * 4 + 3, flags)
        else:
            step = tl.where(last - chunk >= 2 * FOLDED, FOLDED, 1)  # what the launch with FOLDS has added already
            question, prefix, q, p, flags = _sum_parts(
                chunk, last + 1, step, chunk, b, slots, segments, columns, width, WIDTH
            )
            if SHARED:
                prefix += tl.load(shared + columns, mask=inside, other=0.0)
            _write(
                b, question, prefix, q.to(tl.int32), (p + shared_tokens).to(tl.int32), flags.to(tl.int32), numbers,
                counts, directions, sums, sequences, width, columns, inside, DIRECTIONS, SUMS,
            )  # fmt: skip
