// Angle concentration on the CPU.  See params.h for the formula and the arguments.
#pragma once

#include "angle/params.h"

namespace gainrl {

// Runs the whole call on at most `threads` threads.  The result does not depend on the number of threads.
Result angle_cpu(const AngleParams& params, int threads) noexcept;

// "avx512bf16", "avx512", "avx2" or "plain": the instruction set in use.  GAINRL_CPU_ISA=<name> in the environment of
// the first call asks for a lower one.
const char* angle_cpu_isa() noexcept;

}  // namespace gainrl
