#include "forward/kernels_impl.h"

gainrl::ForwardTable gainrl::forward_avx512bf16() noexcept { return table(); }
