"""Kernels of `triton_head`, in Triton's language: tiles of logits, the online normaliser, a figure's sums, its slopes.

A program takes a block of rows and a stretch of the vocabulary, tile by tile. A tile of logits is a product of states and head in
float32 that nothing else ever sees, so each kernel makes it anew. A figure's slope with respect to the logit of token v is
a_v - q_v sum_u a_u, with `a` its derivative with respect to log q; hence two sums for each row: of the value's terms, and of `a`.
The logit of what is no token, or is left out, is -1e30: finite, so that a stretch of nothing else gives no NaN.
TILES is `tiles` in the interpreter, whose range takes no variable (NumPy 2.4 onwards), and 0 where it would compile anew.
Importable without Triton (nothing can be launched then). Read `triton_head` first: it says who calls what, and why.
"""

from __future__ import annotations

from typing import no_type_check

try:
    import triton
    import triton.language as tl

    jit = triton.jit
    launched = triton.jit(do_not_specialize=["count", "tiles"])  # they change from batch to batch: compile once
except ImportError:  # the kernels are text then; `triton_head.supported` keeps everyone from calling them

    def jit(function):
        """Return the function as it is."""
        return function

    launched = jit


@jit
@no_type_check  # these are no tensors of Python's
def _tile(
    student,
    teacher,
    weight,
    bias,
    rows,
    cols,
    vocabulary,
    scale,
    softcap,
    PRODUCT: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TEACHER: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return logits of student and teacher, ROWS x TOKENS each, the teacher's zero where there is none."""
    s = tl.zeros((ROWS, TOKENS), tl.float32)
    t = tl.zeros((ROWS, TOKENS), tl.float32)
    if PRODUCT:
        depth = tl.arange(0, DEPTH)
        at_state = rows[:, None].to(tl.int64) * WIDTH + depth[None, :]
        at_weight = cols[None, :].to(tl.int64) * WIDTH + depth[:, None]
        for start in range(0, WIDTH, DEPTH):
            if WIDTH % DEPTH == 0:
                w = tl.load(weight + at_weight + start)
                x = tl.load(student + at_state + start)
            else:
                inside = depth < WIDTH - start
                w = tl.load(weight + at_weight + start, mask=inside[:, None], other=0.0)
                x = tl.load(student + at_state + start, mask=inside[None, :], other=0.0)
            if WIDEN:  # the interpreter takes bfloat16 for integers
                w = w.to(tl.float32)
                x = x.to(tl.float32)
            s = tl.dot(x, w, s, input_precision="ieee")  # of float32 alone: no TF32
            if TEACHER:
                if WIDTH % DEPTH == 0:
                    y = tl.load(teacher + at_state + start)
                else:
                    y = tl.load(teacher + at_state + start, mask=inside[None, :], other=0.0)
                if WIDEN:
                    y = y.to(tl.float32)
                t = tl.dot(y, w, t, input_precision="ieee")
    else:  # `student` and `teacher` are products that a library made
        at = rows[:, None].to(tl.int64) * vocabulary + cols[None, :]
        s += tl.load(student + at)
        if TEACHER:
            t += tl.load(teacher + at)
    if BIAS:
        b = tl.load(bias + cols).to(tl.float32)
        s += b[None, :]
        t += b[None, :]
    s *= scale
    t *= scale
    if SOFTCAP:
        s = softcap * (2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0)
        t = softcap * (2.0 * tl.sigmoid(2.0 * t / softcap) - 1.0)
    return s, t


@launched
@no_type_check  # these are no tensors of Python's
def normaliser_kernel(
    student,
    teacher,
    weight,
    bias,
    targets,
    omitted,
    out,
    count,
    vocabulary,
    scale,
    softcap,
    tiles,
    OMIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TEACHER: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write for this stretch: maximum and sum of exponentials of student and teacher without what is omitted, the student's logit
    of the target and of each omitted token (0 where the stretch does not hold it). `out` is stretches x (5 + OMIT) x rows;
    OMIT, tokens omitted per row, is 0 or a power of 2."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = tl.minimum(place, count - 1)
    target = tl.load(targets + rows)
    s_top = tl.full((ROWS,), -1.0e30, tl.float32)
    t_top = tl.full((ROWS,), -1.0e30, tl.float32)
    s_sum = tl.zeros((ROWS,), tl.float32)
    t_sum = tl.zeros((ROWS,), tl.float32)
    chosen = tl.zeros((ROWS,), tl.float32)
    base = out + tl.program_id(1).to(tl.int64) * (5 + OMIT) * count + place
    kept = place < count
    places = tl.arange(0, OMIT if OMIT > 0 else 1)
    apart = tl.zeros((ROWS, OMIT if OMIT > 0 else 1), tl.float32)
    first = tl.program_id(1) * tiles * TOKENS
    for tile in range(TILES if TILES > 0 else tiles):
        token = first + tile * TOKENS + tl.arange(0, TOKENS)
        cols = tl.minimum(token, vocabulary - 1)
        s, t = _tile(
            student, teacher, weight, bias, rows, cols, vocabulary, scale, softcap,
            PRODUCT, BIAS, SOFTCAP, TEACHER, WIDTH, WIDEN, ROWS, TOKENS, DEPTH,
        )  # fmt: skip
        chosen += tl.sum(tl.where(token[None, :] == target[:, None], s, 0.0), 1)
        valid = (token < vocabulary)[None, :]
        for omission in tl.static_range(OMIT):
            left_out = tl.load(omitted + rows * OMIT + omission)
            here = token[None, :] == left_out[:, None]
            logit = tl.sum(tl.where(here, s, 0.0), 1)
            apart += tl.where((places == omission)[None, :], logit[:, None], 0.0)
            valid = valid & (here == 0)
        s = tl.where(valid, s, -1.0e30)
        top = tl.maximum(s_top, tl.max(s, 1))
        s_sum = s_sum * tl.exp(s_top - top) + tl.sum(tl.exp(s - top[:, None]), 1)
        s_top = top
        if TEACHER:
            t = tl.where(valid, t, -1.0e30)
            top = tl.maximum(t_top, tl.max(t, 1))
            t_sum = t_sum * tl.exp(t_top - top) + tl.sum(tl.exp(t - top[:, None]), 1)
            t_top = top
    tl.store(base, s_top, mask=kept)
    tl.store(base + count, s_sum, mask=kept)
    tl.store(base + 2 * count, t_top, mask=kept)
    tl.store(base + 3 * count, t_sum, mask=kept)
    tl.store(base + 4 * count, chosen, mask=kept)
    if OMIT > 0:
        tl.store(base[:, None] + (5 + places)[None, :] * count, apart, mask=kept[:, None])


@launched
@no_type_check  # these are no tensors of Python's
def figure_kernel(
    student,
    teacher,
    weight,
    bias,
    targets,
    omitted,
    normalisers,
    pulls,
    slopes,
    out,
    count,
    vocabulary,
    scale,
    softcap,
    exponent,
    tiles,
    FIGURE: tl.constexpr,
    SLOPES: tl.constexpr,
    OMIT: tl.constexpr,
    PRODUCT: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    TEACHER: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write this stretch's sums of value and `a` (`out`: stretches x 2 x rows); with SLOPES the slopes, rows x vocabulary,
    with respect to the product of state and head row, which needs the whole rows' sums of `a` in `pulls`."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = tl.minimum(place, count - 1)
    kept = place < count
    target = tl.load(targets + rows)
    s_normaliser = tl.load(normalisers + rows)
    t_normaliser = tl.load(normalisers + count + rows)
    value = tl.zeros((ROWS,), tl.float32)
    pull = tl.zeros((ROWS,), tl.float32)
    whole = tl.zeros((ROWS,), tl.float32)
    if SLOPES:
        whole += tl.load(pulls + rows)
    first = tl.program_id(1) * tiles * TOKENS
    for tile in range(TILES if TILES > 0 else tiles):
        token = first + tile * TOKENS + tl.arange(0, TOKENS)
        cols = tl.minimum(token, vocabulary - 1)
        s, t = _tile(
            student, teacher, weight, bias, rows, cols, vocabulary, scale, softcap,
            PRODUCT, BIAS, SOFTCAP, TEACHER, WIDTH, WIDEN, ROWS, TOKENS, DEPTH,
        )  # fmt: skip
        valid = (token < vocabulary)[None, :] & (place < count)[:, None]
        for omission in tl.static_range(OMIT):
            left_out = tl.load(omitted + rows * OMIT + omission)
            valid = valid & (token[None, :] != left_out[:, None])
        log_q = s - s_normaliser[:, None]
        log_p = t - t_normaliser[:, None]
        q = tl.exp(log_q)
        if FIGURE == "log_prob":
            a = tl.where(token[None, :] == target[:, None], 1.0, 0.0) + 0.0 * q
            term = a * log_q
        elif FIGURE == "total_variation":
            gap = q - tl.exp(log_p)
            term = 0.5 * tl.abs(gap)
            a = tl.where(gap > 0.0, 0.5 * q, tl.where(gap < 0.0, -0.5 * q, 0.0))
        elif FIGURE == "forward_kl":
            a = -tl.exp(log_p)
            term = a * (log_q - log_p)
        elif FIGURE == "reverse_kl":
            a = q * (log_q - log_p)
            term = a
        elif FIGURE == "jensen_shannon":
            high = tl.maximum(log_q, log_p)
            low = tl.minimum(log_q, log_p)
            log_m = high + tl.log(1.0 + tl.exp(low - high)) - 0.6931471805599453
            a = 0.5 * q * (log_q - log_m)
            term = a + 0.5 * tl.exp(log_p) * (log_p - log_m)
        else:
            short = tl.minimum(log_q - log_p, 0.0)
            p = tl.exp(log_p)
            shrunk = tl.exp(exponent * short)
            term = p * (1.0 - shrunk) / exponent
            a = tl.where(short < 0.0, -p * shrunk, 0.0)
        value += tl.sum(tl.where(valid, term, 0.0), 1)
        pull += tl.sum(tl.where(valid, a, 0.0), 1)
        if SLOPES:
            slope = (a - q * whole[:, None]) * scale
            if SOFTCAP:
                slope *= 1.0 - (s / softcap) * (s / softcap)
            slope = tl.where(valid, slope, 0.0)
            at = slopes + place[:, None].to(tl.int64) * vocabulary + token[None, :]
            tl.store(at, slope.to(slopes.dtype.element_ty), mask=(token < vocabulary)[None, :] & kept[:, None])
    at = out + tl.program_id(1).to(tl.int64) * 2 * count + place
    tl.store(at, value, mask=kept)
    tl.store(at + count, pull, mask=kept)
