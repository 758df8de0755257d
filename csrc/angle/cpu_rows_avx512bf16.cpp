#include "angle/cpu_rows_impl.h"

gainrl::RowTable gainrl::rows_avx512bf16() noexcept { return table("avx512bf16"); }
