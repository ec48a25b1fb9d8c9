// Products of several weights, each with vectors of its own, shared among threads as one list: those of experts, whom
// different tokens have chosen.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "activations.h"
#include "linear.h"
#include "packed.h"
#include "threads.h"

namespace halve {

class Grouped {
 public:
  explicit Grouped(const PackedKernels& kernels) : kernels_(kernels) {}

  // A new list. Vector v is row rows[v] of x [any][columns].
  void begin(Mode mode, const float* x, size_t columns, std::span<const size_t> rows) {
    mode_ = mode;
    x_ = x;
    columns_ = columns;
    rows_ = rows;
    items_.clear();
    few_.clear();
    slots_.assign(rows.empty() ? 0 : *std::ranges::max_element(rows) + 1, kNone);
    many_.assign(rows.size(), false);
    forms_ = batch_forms_ = 0;
    groups_ = padded_ = 0;
  }

  // The products of vectors first ... first + count - 1 with a weight; that of vector v goes to y[v * stride]. Up to
  // kFew get the bits that each gets alone.
  void add(const Linear& linear, size_t first, size_t count, float* y, size_t stride) {
    const Weight& w = *linear.weight;
    Item item{&linear, first, count, y, stride, groups_, {}, {}};
    if (count <= kFew) {
      item.product = kernels_.best_product(w.element, w.scale, mode_);
      forms_ |= item.product.form | (w.offsets == nullptr ? 0 : kSums);
      for (size_t v = first; v < first + count; ++v) want(rows_[v]);
    } else {
      item.batch = kernels_.batch_product(w.element, w.scale, mode_);
      batch_forms_ |= item.batch.form;
      std::fill_n(many_.begin() + static_cast<ptrdiff_t>(first), count, true);
    }
    items_.push_back(item);
    groups_ += w.groups();
    padded_ = std::max(padded_, w.padded());
  }

  void run(Pool& pool) {
    prepare(pool);
    const size_t per_chunk = batch_forms_ != 0 ? kBatchGroups : groups_a_chunk(groups_, pool.threads());
    pool.run((groups_ + per_chunk - 1) / per_chunk, [&](size_t number) {
      size_t at = number * per_chunk;
      const size_t stop = std::min(at + per_chunk, groups_);
      auto item = std::ranges::upper_bound(items_, at, {}, &Item::begins) - 1;
      for (; at < stop; ++item) {
        const size_t last = std::min(item->linear->weight->groups(), stop - item->begins);
        multiply(*item, at - item->begins, last);
        at = item->begins + last;
      }
    });
  }

 private:
  struct Item {
    const Linear* linear;
    size_t first, count;  // vectors
    float* y;
    size_t stride;
    size_t begins;  // its first group among those of all items
    Product product;
    BatchProduct batch;
  };

  static constexpr size_t kNone = ~size_t{0};

  // The forms of a row are made once, for all vectors that are this row.
  void want(size_t row) {
    if (slots_[row] != kNone) return;
    slots_[row] = few_.size();
    few_.push_back(row);
  }

  void prepare(Pool& pool) {
    if (!few_.empty() && form_memory_.size() != 0 && form_memory_[0].get().padded < padded_) form_memory_.clear();
    while (form_memory_.size() < few_.size()) form_memory_.emplace_back(padded_);
    pool.run(few_.size(), [&](size_t slot) {
      kernels_.prepare(x_ + few_[slot] * columns_, columns_, mode_, forms_, form_memory_[slot].get());
    });
    if (batch_forms_ == 0) return;
    batch_.make_room(rows_.size(), padded_);
    pool.run(rows_.size(), [&](size_t v) {
      if (!many_[v]) return;
      kernels_.prepare_batch(x_ + rows_[v] * columns_, columns_, mode_, batch_forms_, batch_.from(v, 1), 0);
    });
  }

  void multiply(const Item& item, size_t first, size_t last) {
    const Weight& w = *item.linear->weight;
    float* y = item.y + item.first * item.stride;
    if (item.count <= kFew) {
      const auto forms = [&](size_t i) -> const Activations& {
        return form_memory_[slots_[rows_[item.first + i]]].get();
      };
      multiply_each(item.product, w, item.count, forms, y, item.stride, first, last);
    } else {
      item.batch.run(w, batch_.from(item.first, item.count), y, item.stride, first, last, batch_work(item.count));
    }
    for (size_t i = 0; i < item.count; ++i) add_bias(*item.linear, y + i * item.stride, first, last);
  }

  const PackedKernels& kernels_;
  Mode mode_ = Mode::Exact;
  const float* x_ = nullptr;
  size_t columns_ = 0;
  std::span<const size_t> rows_;
  std::vector<Item> items_;
  std::vector<size_t> few_;  // rows that are multiplied one by one
  std::vector<size_t> slots_;  // of each row: where it is in `few_`
  std::vector<uint8_t> many_;  // of each vector: whether it is multiplied with others
  uint8_t forms_ = 0, batch_forms_ = 0;
  size_t groups_ = 0, padded_ = 0;
  std::vector<ActivationForms> form_memory_;
  BatchBuffer batch_;
};

}  // namespace halve
