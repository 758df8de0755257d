#include "angle/cpu_rows_impl.h"

gainrl::RowTable gainrl::rows_plain() noexcept { return table("plain"); }
