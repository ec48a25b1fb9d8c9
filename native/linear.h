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
    const BatchProduct batch = kernels_->batch_product(weight.element, weight.scale, mode_);
    forms_ |= product.form | (weight.offsets == nullptr ? 0 : kSums);
    batch_forms_ |= batch.form;
    parts_.push_back({&weight, bias, product, batch, y, stride});
    groups_ += weight.groups();
    columns_ = weight.columns;
    padded_ = std::max(padded_, weight.padded());
  }

  // How many columns a buffer for `run` has at least.
  size_t padded() const { return padded_; }

  // The products with `count` vectors of activations, one after the other in x, whose forms go into `buffer`.
  void run(Pool& pool, const float* x, size_t count, ActivationBuffer& buffer) const {
    if (count <= kFew)
      multiply_few(pool, x, count, buffer);
    else
      multiply_batch(pool, x, buffer.batch(count, padded_));
  }

 private:
  struct Part {
    const Weight* weight;
    const float* bias;  // null: none
    Product product;
    BatchProduct batch;
    float* y;
    size_t stride;
  };

  void multiply_few(Pool& pool, const float* x, size_t count, ActivationBuffer& buffer) const {
    for (size_t vector = 0; vector < count; ++vector)
      kernels_->prepare(x + vector * columns_, columns_, mode_, forms_, buffer.forms(vector));
    share(pool, chunk(pool.threads()), [&](const Part& part, size_t first, size_t last) {
      for (size_t vector = 0; vector < count; ++vector) {
        float* y = part.y + vector * part.stride;
        part.product.run(*part.weight, buffer.forms(vector), y, first, last);
        add_bias(part, y, first, last);
      }
    });
  }

  void multiply_batch(Pool& pool, const float* x, const Batch& batch) const {
    pool.run(batch.count, [&](size_t vector) {
      kernels_->prepare_batch(x, columns_, mode_, batch_forms_, batch, vector);
    });
    share(pool, kBatchGroups, [&](const Part& part, size_t first, size_t last) {
      thread_local std::vector<float> work;
      if (work.size() < batch.count * kBatchWork) work.resize(batch.count * kBatchWork);
      part.batch.run(*part.weight, batch, part.y, part.stride, first, last, work.data());
      for (size_t vector = 0; vector < batch.count; ++vector)
        add_bias(part, part.y + vector * part.stride, first, last);
    });
  }

  // work(part, first group, last group) for all groups of all parts, `per_chunk` groups at a time.
  template <class Work>
  void share(Pool& pool, size_t per_chunk, const Work& work) const {
    pool.run((groups_ + per_chunk - 1) / per_chunk, [&](size_t number) {
      size_t first = number * per_chunk, left = std::min(per_chunk, groups_ - first);
      for (const Part& part : parts_) {
        const size_t groups = part.weight->groups();
        if (first >= groups) {
          first -= groups;
          continue;
        }
        const size_t last = std::min(groups, first + left);
        work(part, first, last);
        left -= last - first;
        if (left == 0) return;
        first = 0;
      }
    });
  }

  static void add_bias(const Part& part, float* y, size_t first, size_t last) {
    if (part.bias == nullptr) return;
    const size_t stop = std::min(last * kGroupRows, part.weight->rows);
    for (size_t row = first * kGroupRows; row < stop; ++row) y[row] += part.bias[row];
  }

  static constexpr size_t kBatchGroups = 2;  // enough work, where there are many vectors

  // Groups that a thread takes at a time: multiples of 4, so that few threads share a page; some ten a thread, so that
  // one that is late holds nobody up for long.
  size_t chunk(size_t threads) const {
    constexpr size_t kMultiple = 4, kEach = 10;
    const size_t wanted = groups_ / (threads * kEach);
    return std::max(kMultiple, wanted / kMultiple * kMultiple);
  }

  const PackedKernels* kernels_ = nullptr;
  Mode mode_ = Mode::Exact;
  uint8_t forms_ = 0, batch_forms_ = 0;
  size_t groups_ = 0;
  size_t columns_ = 0;
  size_t padded_ = 0;
  std::vector<Part> parts_;
};

}  // namespace halve
