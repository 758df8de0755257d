#include "angle/cpu_rows_impl.h"

gainrl::RowTable gainrl::rows_avx2() noexcept { return table("avx2"); }
