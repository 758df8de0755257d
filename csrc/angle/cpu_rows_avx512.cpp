#include "angle/cpu_rows_impl.h"

gainrl::RowTable gainrl::rows_avx512() noexcept { return table("avx512"); }
