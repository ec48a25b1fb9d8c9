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

  // y holds weight.rows numbers.
  void add(const Weight& weight, float* y) {
    const Product product = kernels_->best_product(weight.element, weight.scale, mode_);
    forms_ |= product.form;
    parts_.push_back({&weight, product, y});
    groups_ += weight.groups();
    padded_ = std::max(padded_, weight.padded());
  }

  // How many columns a buffer for `run` has at least.
  size_t padded() const { return padded_; }

  // The products with x[columns], whose forms go into `buffer`.
  void run(Pool& pool, const float* x, size_t columns, ActivationBuffer& buffer) const {
    kernels_->prepare(x, columns, mode_, forms_, buffer.forms());
    const size_t per_chunk = chunk(pool.threads());
    pool.run((groups_ + per_chunk - 1) / per_chunk, [&](size_t index) {
      size_t first = index * per_chunk, left = std::min(per_chunk, groups_ - first);
      for (const Part& part : parts_) {
        const size_t groups = part.weight->groups();
        if (first < groups) {
          const size_t last = std::min(groups, first + left);
          part.product.run(*part.weight, buffer.forms(), part.y, first, last);
          left -= last - first;
          if (left == 0) return;
          first = 0;
        } else {
          first -= groups;
        }
      }
    });
  }

 private:
  struct Part {
    const Weight* weight;
    Product product;
    float* y;
  };

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
  size_t padded_ = 0;
  std::vector<Part> parts_;
};

}  // namespace halve
