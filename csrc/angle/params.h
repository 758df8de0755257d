// The boundary of the angle-concentration kernels: a plain struct of pointers, strides and sizes.
//   U_R = sum over rows i of role R of h_i / |h_i|
//   intra = |U_q|^2 / q^2    inter = U_q . U_p / (q p)    whole = |U_p + U_q|^2 / (p + q)^2    score = intra + inter
// (Wang et al. 2025, arXiv 2506.02281, in linear form.)  Nothing here owns memory.  Every pointer of one call lies on
// one device.  Strides are in elements, not bytes.
#pragma once

#include <cstdint>

namespace gainrl {

enum class DType : std::int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

// Roles of a row.  Any other value is reported in `status`; the row is not read.
constexpr int kIgnored = 0, kPrefix = 1, kQuestion = 2;

// Bits of `status`, as in gainrl.angle.Status.
enum StatusBits : std::int32_t {
  kEmptyQuestion = 1,
  kEmptyPrefix = 2,
  kTooFewRows = 4,
  kNonFinite = 8,
  kInvalidRole = 16,
  kInvalidOffsets = 32,
  kBad = kNonFinite | kInvalidRole | kInvalidOffsets,  // every field of the sequence is NaN
};

// What a launcher returns; bindings turn everything but kOk into an exception.
enum class Result : std::int32_t {
  kOk = 0,
  kBadArgument = 1,     // a negative size, a missing pointer, an unknown dtype
  kNoMemory = 2,        // the CPU code could not get its scratch space
  kSmallWorkspace = 3,  // the CUDA workspace is smaller than angle_cuda_workspace() asks for
  kDeviceError = 4,     // a CUDA call failed; see angle_cuda_last_error()
};

struct AngleParams {
  // Activations: row r of sequence b starts at hidden + b * stride_batch + r * stride_row (padded), or row t at
  // hidden + t * stride_row (packed).
  const void* hidden = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t width = 0;         // D
  std::int64_t stride_row = 0;    //
  std::int64_t stride_batch = 0;  // padded only
  std::int64_t stride_column = 1;

  // Sequences: packed rows with offsets (B + 1), or padded rows of `length` each where offsets is null.
  std::int64_t sequences = 0;       // B
  std::int64_t rows = 0;            // T; padded: B * length
  std::int64_t length = 0;          // padded only
  const void* offsets = nullptr;    // (B + 1)
  std::int32_t offsets_are_64 = 0;  // int64 or int32

  const std::int8_t* roles = nullptr;  // (T) or (B, length)
  std::int64_t role_stride_row = 1;    //
  std::int64_t role_stride_batch = 0;  // padded only
  std::int32_t role_scale = 1;         // 2 for a boolean mask, whose true is the role `question`

  const float* shared_sum = nullptr;  // (D) sum of a prefix that all sequences share, or null
  std::int64_t shared_tokens = 0;     // its non-zero rows

  std::int32_t diagonal = 1;  // whether intra and whole include i = j

  // Results.  The first two are required.
  float* values = nullptr;         // (4, B): intra, inter, score, whole
  std::int32_t* counts = nullptr;  // (3, B): status, question rows, prefix rows
  float* directions = nullptr;     // (B, D) U_q / |U_q|
};

// Whether the call can be made at all.  A buffer without elements may lie anywhere, at null too.
inline bool usable(const AngleParams& p) {
  if (p.dtype != DType::kFloat32 && p.dtype != DType::kFloat16 && p.dtype != DType::kBFloat16) return false;
  if (p.width < 1 || p.sequences < 0 || p.rows < 0 || p.length < 0 || p.shared_tokens < 0) return false;
  if (p.sequences > 0 && (p.values == nullptr || p.counts == nullptr)) return false;
  if (p.rows > 0 && (p.hidden == nullptr || p.roles == nullptr)) return false;
  return p.offsets != nullptr || p.rows == p.sequences * p.length;
}

}  // namespace gainrl
