#include "forward/kernels_impl.h"

gainrl::ForwardTable gainrl::forward_avx2() noexcept { return table(); }
