// The last step of every backend here: from the products of the sums to the values of one sequence.
#pragma once

#include "angle/params.h"

#if defined(__CUDACC__)
#define GAINRL_HOST_DEVICE __host__ __device__
#else
#define GAINRL_HOST_DEVICE
#endif

namespace gainrl {

struct Products {
  double question;  // |U_q|^2
  double cross;     // U_q . U_p
  double prefix;    // |U_p|^2
};

struct Values {
  float intra, inter, whole;
  std::int32_t status;
};

// q and p include the shared prefix; `flags` are those found in the rows.
GAINRL_HOST_DEVICE inline Values finish_sequence(const Products& products, std::int64_t q, std::int64_t p,
                                                 std::int32_t flags, bool diagonal) {
  const float nan = __builtin_nanf("");
  const double qd = static_cast<double>(q), pd = static_cast<double>(p), nd = qd + pd;
  const double whole = products.question + 2.0 * products.cross + products.prefix;
  Values out{nan, nan, nan, flags};
  if (flags & kInvalidOffsets) return out;
  if (q == 0) out.status |= kEmptyQuestion;
  if (p == 0) out.status |= kEmptyPrefix;
  if (!diagonal && q < 2) out.status |= kTooFewRows;
  if (flags & kBad) return out;
  if (diagonal) {
    if (q > 0) out.intra = static_cast<float>(products.question / (qd * qd));
    if (q + p > 0) out.whole = static_cast<float>(whole / (nd * nd));
  } else {
    if (q > 1) out.intra = static_cast<float>((products.question - qd) / (qd * (qd - 1.0)));
    if (q + p > 1) out.whole = static_cast<float>((whole - nd) / (nd * (nd - 1.0)));
  }
  if (q > 0 && p > 0) out.inter = static_cast<float>(products.cross / (qd * pd));
  return out;
}

}  // namespace gainrl
