// Memory for the forms of activations.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "packed.h"

namespace halve {

class ActivationForms {
 public:
  explicit ActivationForms(size_t padded) {
    const size_t bytes_needed = padded * (2 * sizeof(float) + 2 * sizeof(uint16_t) + sizeof(int8_t)) +
                                padded / kUnit * (3 * sizeof(float) + 8 * sizeof(int32_t)) + 16 * kLineBytes;
    memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(kLineBytes, aligned(bytes_needed))));
    if (!memory_) throw std::bad_alloc();
    uint8_t* at = memory_.get();
    forms_.padded = padded;
    take(at, forms_.values, padded);
    take(at, forms_.lifted, padded);
    take(at, forms_.pairs, padded);
    take(at, forms_.mixed_pairs, padded);
    take(at, forms_.bytes, padded);
    take(at, forms_.byte_scales, padded / kUnit);
    take(at, forms_.lifted_byte_scales, padded / kUnit);
    take(at, forms_.byte_sums, padded / kUnit * 2);
    for (int32_t*& middles : forms_.middles) take(at, middles, padded / kUnit * 2);
    take(at, forms_.sums, padded / kUnit);
  }

  const Activations& get() const { return forms_; }

 private:
  static size_t aligned(size_t size) { return (size + kLineBytes - 1) / kLineBytes * kLineBytes; }

  template <class T>
  static void take(uint8_t*& at, T*& array, size_t count) {
    array = reinterpret_cast<T*>(at);
    at += aligned(count * sizeof(T));
  }

  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
  Activations forms_{};
};

// Vectors that are multiplied kTogether at a time, while a part of the weights is in the cache; of more than these,
// tiles are quicker (python benchmarks/decode.py --only together).
constexpr size_t kFew = 32;

// Room for vectors that are multiplied together. They lie an odd number of cache lines apart: as many of them as a tile
// meets at a time would otherwise fall into one set of the first-level cache.
class BatchBuffer {
 public:
  // For `count` vectors of `columns` numbers; what was there is forgotten.
  void make_room(size_t count, size_t columns) {
    padded_ = (columns / kUnit | 1) * kUnit;
    if (count * padded_ <= values_.size()) return;
    values_.resize(count * padded_);
    pairs_.resize(count * padded_);
  }

  // `count` of them, from number `first` on.
  Batch from(size_t first, size_t count) {
    return {count, padded_, values_.data() + first * padded_, pairs_.data() + first * padded_};
  }

 private:
  size_t padded_ = 0;
  std::vector<float> values_;
  std::vector<uint16_t> pairs_;
};

class ActivationBuffer {
 public:
  // `padded` is a multiple of kUnit.
  explicit ActivationBuffer(size_t padded) {
    for (size_t i = 0; i < kFew; ++i) few_.emplace_back(padded);
  }

  const Activations& forms(size_t vector) const { return few_[vector].get(); }

  // Room for `count` vectors of `columns` numbers, whose contents are forgotten.
  Batch batch(size_t count, size_t columns) {
    batch_.make_room(count, columns);
    return batch_.from(0, count);
  }

 private:
  std::vector<ActivationForms> few_;
  BatchBuffer batch_;
};

}  // namespace halve
