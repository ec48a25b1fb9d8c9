// Several products with the same activations, shared among threads.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "activations.h"
#include "packed.h"
#include "threads.h"

namespace halve {

class Linears {
 public:
  Linears() = default;
  Linears(const PackedKernels& kernels, Mode mode) : kernels_(&kernels), mode_(mode) {}

  // y holds weight.rows numbers; those of the next vector are `stride` numbers further.
  void add(const Weight& weight, const float* bias, float* y, size_t stride) {
    const Product product = kernels_->best_product(weight.element, weight.scale, mode_);
    forms_ |= product.form;
    parts_.push_back({&weight, bias, product, y, stride});
    groups_ += weight.groups();
    columns_ = weight.columns;
    padded_ = std::max(padded_, weight.padded());
  }

  // How many columns a buffer for `run` has at least.
  size_t padded() const { return padded_; }

  // The products with `count` vectors of activations, one after the other in x, whose forms go into `buffer`.
  void run(Pool& pool, const float* x, size_t count, ActivationBuffer& buffer) const {
    for (size_t index = 0; index < count; ++index) multiply(pool, x + index * columns_, index, buffer);
  }

 private:
  struct Part {
    const Weight* weight;
    const float* bias;  // null: none
    Product product;
    float* y;
    size_t stride;
  };

  void multiply(Pool& pool, const float* x, size_t index, ActivationBuffer& buffer) const {
    kernels_->prepare(x, columns_, mode_, forms_, buffer.forms());
    const size_t per_chunk = chunk(pool.threads());
    pool.run((groups_ + per_chunk - 1) / per_chunk, [&](size_t number) {
      size_t first = number * per_chunk, left = std::min(per_chunk, groups_ - first);
      for (const Part& part : parts_) {
        const size_t groups = part.weight->groups();
        if (first >= groups) {
          first -= groups;
          continue;
        }
        const size_t last = std::min(groups, first + left);
        multiply_groups(part, part.y + index * part.stride, first, last, buffer.forms());
        left -= last - first;
        if (left == 0) return;
        first = 0;
      }
    });
  }

  static void multiply_groups(const Part& part, float* y, size_t first, size_t last, const Activations& x) {
    part.product.run(*part.weight, x, y, first, last);
    if (part.bias == nullptr) return;
    const size_t stop = std::min(last * kGroupRows, part.weight->rows);
    for (size_t row = first * kGroupRows; row < stop; ++row) y[row] += part.bias[row];
  }

  // Groups that a thread takes at a time: multiples of 4, so that few threads share a page; some ten a thread, so that
  // one that is late holds nobody up for long.
  size_t chunk(size_t threads) const {
    constexpr size_t kMultiple = 4, kEach = 10;
    const size_t wanted = groups_ / (threads * kEach);
    return std::max(kMultiple, wanted / kMultiple * kMultiple);
  }

  const PackedKernels* kernels_ = nullptr;
  Mode mode_ = Mode::Exact;
  uint8_t forms_ = 0;
  size_t groups_ = 0;
  size_t columns_ = 0;
  size_t padded_ = 0;
  std::vector<Part> parts_;
};

}  // namespace halve
