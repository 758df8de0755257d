// One sequence (or a piece of one) being summed on one thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "angle/cpu_rows.h"
#include "angle/finish.h"
#include "angle/params.h"

namespace gainrl {

// Additions to a float32 sum before it goes into the float64 one.  Equal rows lose up to half a unit in the last place
// per addition: near 2^-19 after 64.  A batch of rows is one addition; what its own rows lose is small beside that.
constexpr int kAdditionsPerBlock = 64;

// A squared norm between these is as good as exact: no square overflowed, and what vanished weighs nothing.
constexpr float kSmallestSquare = 0x1p-80F, kLargestSquare = 0x1p120F;
inline bool usual(float square) { return square > kSmallestSquare && square < kLargestSquare; }

inline std::int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

float element_as_float(const void* row, DType dtype, std::int64_t i) noexcept;

// What all threads of a call share.
struct CallContext {
  const AngleParams* params;
  const RowOperations* rows;    // for hidden's dtype
  const RowOperations* floats;  // for float32
  const float* placed_shared;   // shared_sum in the placed order of `rows`, or null
  double shared_square;         // |shared_sum|^2

  double dot(const float* a, const float* b) const;
  // A row of any magnitude in float64: its unit vector (if it has one) goes to `unit`.  Returns the squared norm.
  double unusual_unit(const void* row, std::vector<double>& unit) const;
  void square(const void* const* rows, int count, float* squares, Fetch& fetch) const;
  float row_dot(const void* row, const float* vector) const;
};

// The unit rows of one role, summed in the placed order.  Rows wait for a batch: then their norms are taken, and while
// they are still in the cache they are added into a float32 block, blocks into a float64 total.
class RoleSum {
 public:
  explicit RoleSum(const CallContext& call);
  void clear();
  // Adds `rows` rows, `stride` bytes apart.  As many as `beyond` rows that follow at the same stride will be read soon.
  void add(const unsigned char* row, std::int64_t stride, std::int64_t rows, std::int64_t beyond);
  void add_part(const float* part, std::int64_t rows);  // a finished part of the sum, (D), placed
  // Measures all rows that wait: afterwards `count` and `flags` are those of all rows, and no more may be added.
  void settle() { measure(); }

  std::int64_t count = 0;  // rows that have a direction
  std::int32_t flags = 0;  // found in the rows

  const float* rounded();    // (D) the sum as float32, placed, or null if it is empty; then no more rows
  unsigned char* scratch();  // room for the next row, where columns are strided

 private:
  void measure();
  void take_unusual(const float* squares);
  void take_measured();
  void add_unusual(const void* row);
  void close_block();
  const CallContext* call_;
  std::int64_t width_;
  std::vector<float> block_;
  std::vector<double> total_, unit_;
  std::vector<unsigned char> gathered_;
  const void* rows_[kRowBatch];  // those that wait, of which the first `measured_` have scales
  float scales_[kRowBatch];
  Fetch fetch_;
  int waiting_ = 0, measured_ = 0, in_block_ = 0;
  bool block_used_ = false, total_used_ = false, rounded_ = false;
};

// Both roles of one sequence, and the flags found in its rows.
class SequenceSum {
 public:
  explicit SequenceSum(const CallContext& call) : question(call), prefix(call), call_(&call) {}
  void clear();

  // Adds rows [first, last) (indices as in `roles`, flattened) of sequence b.  Rows before `limit` will be read soon.
  void add_rows(std::int64_t b, std::int64_t first, std::int64_t last, std::int64_t limit);

  // Measures all rows that wait, so that counts and flags are complete.
  void settle();

  // Writes every per-sequence result of sequence b.  Returns whether it has a prefix row.
  bool finish(std::int64_t b);

  // Does all of this for up to `most` <= kRowBatch sequences of one question row each, from b on, whose first row is
  // `first`; returns how many it did.  Rows are packed with their columns side by side; only values and counts wanted.
  int finish_single_rows(std::int64_t b, std::int64_t first, int most);

  RoleSum question, prefix;
  std::int32_t flags = 0;  // after settle()

 private:
  void write(std::int64_t b, const Products& products, std::int64_t questions, std::int64_t prefix_rows);
  const unsigned char* row(std::int64_t b, std::int64_t index) const;
  const CallContext* call_;
};

// Calls body(data), which does not throw, on up to `threads` threads, the caller's among them.  They are those of the
// OpenMP runtime that the process has loaded (torch's), whose threads spin on the cores that ours would need; else new.
void on_threads(int threads, void (*body)(void*), void* data);

}  // namespace gainrl
