// Several products with the same activations, shared among threads.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "activations.h"
#include "packed.h"
#include "threads.h"

namespace halve {

struct Linear {
  const Weight* weight;
  const float* bias;  // null: none
};

// To rows of groups first ... last - 1 of a product.
inline void add_bias(const Linear& linear, float* y, size_t first, size_t last) {
  if (linear.bias == nullptr) return;
  const size_t stop = std::min(last * kGroupRows, linear.weight->rows);
  for (size_t row = first * kGroupRows; row < stop; ++row) y[row] += linear.bias[row];
}

constexpr size_t kBatchGroups = 2;  // that a thread takes at a time: enough work, where there are many vectors

// The products with `count` vectors, whose forms are forms(0) and on, kTogether at a time.
template <class Forms>
void multiply_each(const Product& product, const Weight& w, size_t count, const Forms& forms, float* y, size_t stride,
                   size_t first, size_t last) {
  size_t vector = 0;
  for (; vector + kTogether <= count; vector += kTogether) {
    const Activations* x[kTogether];
    float* to[kTogether];
    for (size_t i = 0; i < kTogether; ++i) {
      x[i] = &forms(vector + i);
      to[i] = y + (vector + i) * stride;
    }
    product.run_together(w, x, to, first, last);
  }
  for (; vector < count; ++vector) product.run(w, forms(vector), y + vector * stride, first, last);
}

// Groups that a thread takes at a time: multiples of 4, so that few threads share a page; some ten a thread, so that
// one that is late holds nobody up for long.
inline size_t groups_a_chunk(size_t groups, size_t threads) {
  constexpr size_t kMultiple = 4, kEach = 10;
  const size_t wanted = groups / (threads * kEach);
  return std::max(kMultiple, wanted / kMultiple * kMultiple);
}

// Scratch memory of this thread for a batch of `count` vectors.
inline float* batch_work(size_t count) {
  thread_local std::vector<float> work;
  if (work.size() < count * kBatchWork) work.resize(count * kBatchWork);
  return work.data();
}

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
    parts_.push_back({{&weight, bias}, product, batch, y, stride});
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
    Linear linear;
    Product product;
    BatchProduct batch;
    float* y;
    size_t stride;
  };

  void multiply_few(Pool& pool, const float* x, size_t count, ActivationBuffer& buffer) const {
    pool.run(count, [&](size_t vector) {
      kernels_->prepare(x + vector * columns_, columns_, mode_, forms_, buffer.forms(vector));
    });
    share(pool, groups_a_chunk(groups_, pool.threads()), [&](const Part& part, size_t first, size_t last) {
      const auto forms = [&](size_t vector) -> const Activations& { return buffer.forms(vector); };
      multiply_each(part.product, *part.linear.weight, count, forms, part.y, part.stride, first, last);
      for (size_t vector = 0; vector < count; ++vector)
        add_bias(part.linear, part.y + vector * part.stride, first, last);
    });
  }

  void multiply_batch(Pool& pool, const float* x, const Batch& batch) const {
    pool.run(batch.count, [&](size_t vector) {
      kernels_->prepare_batch(x, columns_, mode_, batch_forms_, batch, vector);
    });
    share(pool, kBatchGroups, [&](const Part& part, size_t first, size_t last) {
      part.batch.run(*part.linear.weight, batch, part.y, part.stride, first, last, batch_work(batch.count));
      for (size_t vector = 0; vector < batch.count; ++vector)
        add_bias(part.linear, part.y + vector * part.stride, first, last);
    });
  }

  // work(part, first group, last group) for all groups of all parts, `per_chunk` groups at a time.
  template <class Work>
  void share(Pool& pool, size_t per_chunk, const Work& work) const {
    pool.run((groups_ + per_chunk - 1) / per_chunk, [&](size_t number) {
      size_t first = number * per_chunk, left = std::min(per_chunk, groups_ - first);
      for (const Part& part : parts_) {
        const size_t groups = part.linear.weight->groups();
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

  const PackedKernels* kernels_ = nullptr;
  Mode mode_ = Mode::Exact;
  uint8_t forms_ = 0, batch_forms_ = 0;
  size_t groups_ = 0;
  size_t columns_ = 0;
  size_t padded_ = 0;
  std::vector<Part> parts_;
};

}  // namespace halve
