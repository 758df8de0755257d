// The scoring pass's kernels on the CPU.  Each runs on at most `threads` threads; results do not depend on how many.
#pragma once

#include "forward/params.h"

namespace gainrl {

// See AttentionParams.  Products of bfloat16 are added in float32; so is the softmax.
Result attention_cpu(const AttentionParams& params, int threads) noexcept;

// out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * (weight + weight_offset), for rows (T, D), all contiguous and of one
// dtype; computed in float32 and rounded once.  `out` may be `x`.
Result rms_norm_cpu(const void* x, const void* weight, float weight_offset, float eps, void* out, std::int64_t rows,
                    std::int64_t width, DType dtype, int threads) noexcept;

// sum = x + y, rounded to the dtype, and out = its RMSNorm as above; without `out` (null) the sum alone.  `sum` may be
// `x` or `y`.
Result add_rms_norm_cpu(const void* x, const void* y, void* sum, const void* weight, float weight_offset, float eps,
                        void* out, std::int64_t rows, std::int64_t width, DType dtype, int threads) noexcept;

// out[i] = silu(gate[i]) * up[i] for n elements of one dtype; computed in float32 and rounded once.  `out` may be
// `gate`.
Result silu_mul_cpu(const void* gate, const void* up, void* out, std::int64_t n, DType dtype, int threads) noexcept;

// Rotary positions, in place: of each head's row (a, b) of two halves, a cos - b sin and b cos + a sin.  x (rows,
// heads, width), cosine and sine (rows, width), all contiguous and of one dtype; `width` even.
Result rotate_cpu(void* x, const void* cosine, const void* sine, std::int64_t rows, std::int64_t heads,
                  std::int64_t width, DType dtype, int threads) noexcept;

}  // namespace gainrl
