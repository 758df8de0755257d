#include "forward/kernels_impl.h"

gainrl::ForwardTable gainrl::forward_avx512() noexcept { return table(); }
