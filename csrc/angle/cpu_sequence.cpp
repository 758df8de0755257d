#include "angle/cpu_sequence.h"

#include <algorithm>

#include "angle/cpu_simd.h"

namespace gainrl {

namespace {

// Columns whose products are summed in float32 before they go into a float64 sum.
constexpr std::int64_t kColumnBlock = 4096;

constexpr int kMostAdditions = 3;  // that less than a batch of eight rows may take: 4 + 2 + 1 (add_count)
static_assert(kRowBatch == 8);

}  // namespace

float element_as_float(const void* row, DType dtype, std::int64_t i) noexcept {
  if (dtype == DType::kFloat32) return static_cast<const float*>(row)[i];
  if (dtype == DType::kFloat16) return widen(static_cast<const Half*>(row)[i]);
  return widen(static_cast<const BFloat*>(row)[i]);
}

double CallContext::dot(const float* a, const float* b) const {
  double sum = 0.0;
  for (std::int64_t i = 0; i < params->width; i += kColumnBlock)
    sum += floats->dot(a + i, b + i, std::min(kColumnBlock, params->width - i));
  return sum;
}

void CallContext::square(const void* const* from, int count, float* squares, Fetch& fetch) const {
  if (params->width <= kColumnBlock) return rows->square(from, count, params->width, squares, fetch);
  for (int r = 0; r < count; ++r) {
    double sum = 0.0;
    const auto* bytes = static_cast<const unsigned char*>(from[r]);
    for (std::int64_t i = 0; i < params->width; i += kColumnBlock) {
      const void* part = bytes + i * element_size(params->dtype);
      float square;
      rows->square(&part, 1, std::min(kColumnBlock, params->width - i), &square, fetch);
      sum += square;
    }
    squares[r] = static_cast<float>(sum);
  }
}

double CallContext::unusual_unit(const void* row, std::vector<double>& unit) const {
  unit.resize(static_cast<std::size_t>(params->width));
  double square = 0.0;
  for (std::int64_t i = 0; i < params->width; ++i) {
    unit[i] = element_as_float(row, params->dtype, i);
    square += unit[i] * unit[i];
  }
  if (square > 0.0 && square <= std::numeric_limits<double>::max()) {
    const double scale = 1.0 / std::sqrt(square);
    for (double& x : unit) x *= scale;
  }
  return square;
}

float CallContext::row_dot(const void* row, const float* vector) const {
  double sum = 0.0;
  const auto* bytes = static_cast<const unsigned char*>(row);
  for (std::int64_t i = 0; i < params->width; i += kColumnBlock)
    sum += rows->dot(bytes + i * element_size(params->dtype), vector + i, std::min(kColumnBlock, params->width - i));
  return static_cast<float>(sum);
}

RoleSum::RoleSum(const CallContext& call)
    : call_(&call), width_(call.params->width), block_(static_cast<std::size_t>(width_)) {}

void RoleSum::clear() {
  count = 0;
  flags = 0;
  waiting_ = measured_ = in_block_ = 0;
  fetch_ = {};
  block_used_ = total_used_ = rounded_ = false;
}

void RoleSum::add(const unsigned char* row, std::int64_t stride, std::int64_t rows, std::int64_t beyond) {
  const bool contiguous = stride == width_ * element_size(call_->params->dtype);
  while (rows > 0) {
    const int taken = static_cast<int>(std::min<std::int64_t>(kRowBatch - waiting_, rows));
    for (int r = 0; r < taken; ++r) rows_[waiting_ + r] = row + r * stride;
    waiting_ += taken;
    rows -= taken;
    row += taken * stride;
    if (waiting_ < kRowBatch) return;
    if (contiguous && rows + beyond >= kRowBatch) fetch_ = {reinterpret_cast<const char*>(row), Fetch::kLine};
    measure();
    take_measured();
  }
}

// Measures the rows that were not measured yet.
void RoleSum::measure() {
  if (measured_ == waiting_) return;
  if (fetch_.step == 0) fetch_.next = static_cast<const char*>(rows_[measured_]);
  float squares[kRowBatch];
  const int first = measured_, rows = waiting_ - measured_;
  call_->square(rows_ + first, rows, squares, fetch_);
  bool all_usual = true;
  for (int r = 0; r < rows; ++r) {
    all_usual &= usual(squares[r]);
    scales_[first + r] = 1.0F / std::sqrt(squares[r]);
  }
  if (!all_usual) return take_unusual(squares);
  count += rows;
  measured_ = waiting_;
}

// What measure() does where some of the rows that wait need float64: those do not wait any longer.
void RoleSum::take_unusual(const float* squares) {
  const int first = measured_;
  for (int r = first; r < waiting_; ++r) {
    if (!usual(squares[r - first])) {
      add_unusual(rows_[r]);
      continue;
    }
    rows_[measured_] = rows_[r];
    scales_[measured_] = scales_[r];
    ++measured_;
    ++count;
  }
  waiting_ = measured_;
}

void RoleSum::take_measured() {
  if (measured_ > 0) {
    call_->rows->add(rows_, scales_, measured_, block_.data(), !block_used_, width_, fetch_);
    block_used_ = true;
    in_block_ += measured_ == kRowBatch ? 1 : kMostAdditions;
    waiting_ = measured_ = 0;
    if (in_block_ >= kAdditionsPerBlock) close_block();
  }
  fetch_ = {};
}

void RoleSum::add_unusual(const void* row) {
  const double square = call_->unusual_unit(row, unit_);
  if (!(square <= std::numeric_limits<double>::max())) {
    flags |= kNonFinite;
    return;
  }
  if (square == 0.0) return;  // a zero row has no direction and does not count
  if (!block_used_) std::fill(block_.begin(), block_.end(), 0.0F);
  for (std::int64_t i = 0; i < width_; ++i) block_[call_->rows->place(i, width_)] += static_cast<float>(unit_[i]);
  block_used_ = true;
  ++count;
  if (++in_block_ >= kAdditionsPerBlock) close_block();
}

void RoleSum::close_block() {
  if (!block_used_) return;
  if (total_.empty()) total_.resize(static_cast<std::size_t>(width_));
  call_->rows->add_to_total(block_.data(), total_.data(), !total_used_, width_);
  total_used_ = true;
  block_used_ = false;
  in_block_ = 0;
}

void RoleSum::add_part(const float* part, std::int64_t rows) {
  if (rows == 0) return;
  if (total_.empty()) total_.resize(static_cast<std::size_t>(width_));
  call_->rows->add_to_total(part, total_.data(), !total_used_, width_);
  total_used_ = true;
  count += rows;
}

const float* RoleSum::rounded() {
  if (!rounded_) {
    settle();
    take_measured();
    if (total_used_) {
      close_block();
      for (std::int64_t i = 0; i < width_; ++i) block_[i] = static_cast<float>(total_[i]);
      block_used_ = true;
    }
    rounded_ = true;
  }
  return block_used_ ? block_.data() : nullptr;
}

unsigned char* RoleSum::scratch() {
  const std::size_t bytes = static_cast<std::size_t>(width_ * element_size(call_->params->dtype));
  if (gathered_.empty()) gathered_.resize(bytes * kRowBatch);
  return gathered_.data() + bytes * static_cast<std::size_t>(waiting_);
}

void SequenceSum::clear() {
  question.clear();
  prefix.clear();
  flags = 0;
}

const unsigned char* SequenceSum::row(std::int64_t b, std::int64_t index) const {
  const AngleParams& p = *call_->params;
  const std::int64_t offset =
      p.offsets != nullptr ? index * p.stride_row : b * p.stride_batch + (index - b * p.length) * p.stride_row;
  return static_cast<const unsigned char*>(p.hidden) + offset * element_size(p.dtype);
}

namespace {

// Copies a row with strided columns into `out`.
void gather(const void* row, void* out, const AngleParams& p) {
  const std::int64_t size = element_size(p.dtype);
  const auto* from = static_cast<const unsigned char*>(row);
  auto* to = static_cast<unsigned char*>(out);
  for (std::int64_t i = 0; i < p.width; ++i)
    std::memcpy(to + i * size, from + i * p.stride_column * size, static_cast<std::size_t>(size));
}

}  // namespace

void SequenceSum::add_rows(std::int64_t b, std::int64_t first, std::int64_t last, std::int64_t limit) {
  const AngleParams& p = *call_->params;
  const bool padded = p.offsets == nullptr;
  const std::int8_t* role_at = padded ? p.roles + b * p.role_stride_batch - b * p.length * p.role_stride_row : p.roles;
  const auto role_of = [&](std::int64_t t) { return role_at[t * p.role_stride_row] * p.role_scale; };
  if (padded) limit = last;  // rows of the next sequence may lie anywhere
  const std::int64_t stride = p.stride_row * element_size(p.dtype);
  for (std::int64_t t = first, end; t < last; t = end) {
    const int role = role_of(t);
    end = t + 1;
    while (end < last && role_of(end) == role) ++end;
    if (role == kIgnored) continue;
    if (role != kQuestion && role != kPrefix) {
      flags |= kInvalidRole;
      continue;
    }
    RoleSum& sum = role == kQuestion ? question : prefix;
    if (p.stride_column == 1) {
      const bool followed = limit - end >= kRowBatch && role_of(end + kRowBatch - 1) != kIgnored;
      sum.add(row(b, t), stride, end - t, followed ? kRowBatch : 0);
      continue;
    }
    for (std::int64_t one = t; one < end; ++one) {
      unsigned char* copy = sum.scratch();
      gather(row(b, one), copy, p);
      sum.add(copy, 0, 1, 0);
    }
  }
}

void SequenceSum::settle() {
  question.settle();
  prefix.settle();
  flags |= question.flags | prefix.flags;
}

void SequenceSum::write(std::int64_t b, const Products& products, std::int64_t questions, std::int64_t prefix_rows) {
  const AngleParams& p = *call_->params;
  const Values values = finish_sequence(products, questions, prefix_rows, flags, p.diagonal != 0);
  const std::int64_t n = p.sequences;
  p.values[b] = values.intra;
  p.values[n + b] = values.inter;
  p.values[2 * n + b] = values.intra + values.inter;
  p.values[3 * n + b] = values.whole;
  p.counts[b] = values.status;
  p.counts[n + b] = static_cast<std::int32_t>(questions);
  p.counts[2 * n + b] = static_cast<std::int32_t>(prefix_rows);
}

int SequenceSum::finish_single_rows(std::int64_t b, std::int64_t first, int most) {
  const AngleParams& p = *call_->params;
  const void* rows[kRowBatch];
  int count = 0;
  for (; count < most; ++count) {
    if (p.roles[(first + count) * p.role_stride_row] * p.role_scale != kQuestion) break;
    rows[count] = row(b + count, first + count);
  }
  if (count == 0) return 0;
  float squares[kRowBatch];
  Fetch nothing{static_cast<const char*>(rows[0]), 0};
  call_->square(rows, count, squares, nothing);
  for (int r = 0; r < count; ++r) {
    if (!usual(squares[r])) {
      clear();
      add_rows(b + r, first + r, first + r + 1, first + r + 1);
      finish(b + r);
      continue;
    }
    // A unit vector has length one, and no sum needs to be formed.
    flags = 0;
    Products products{1.0, 0.0, 0.0};
    if (p.shared_sum != nullptr) {
      products.prefix = call_->shared_square;
      products.cross = static_cast<double>(call_->row_dot(rows[r], p.shared_sum)) *
                       static_cast<double>(1.0F / std::sqrt(squares[r]));
    }
    write(b + r, products, 1, p.shared_tokens);
  }
  return count;
}

bool SequenceSum::finish(std::int64_t b) {
  const AngleParams& p = *call_->params;
  settle();
  Products products{0.0, 0.0, p.shared_sum ? call_->shared_square : 0.0};
  const float* q = question.rounded();
  const float* r = prefix.rounded();
  if (q != nullptr) products.question = call_->dot(q, q);
  if (r != nullptr) products.prefix += call_->dot(r, r);
  if (q != nullptr && r != nullptr) products.cross += call_->dot(q, r);
  if (p.shared_sum != nullptr) {
    if (q != nullptr) products.cross += call_->dot(q, call_->placed_shared);
    if (r != nullptr) products.prefix += 2.0 * call_->dot(r, call_->placed_shared);
  }
  const std::int64_t prefix_rows = prefix.count + p.shared_tokens;
  write(b, products, question.count, prefix_rows);
  if (p.directions != nullptr) {
    float* out = p.directions + b * p.width;
    const bool defined = q != nullptr && products.question > 0.0 && (flags & kBad) == 0;
    const double scale = defined ? 1.0 / std::sqrt(products.question) : 0.0;
    for (std::int64_t i = 0; i < p.width; ++i) out[i] = defined ? static_cast<float>(q[i] * scale) : 0.0F;
    call_->rows->natural(out, p.width);
  }
  return prefix_rows > 0;
}

}  // namespace gainrl
