#include "mixture.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

namespace halve {

void Mixture::make_room(size_t count) {
  if (count <= room_) return;
  const size_t pairs = count * routing_.chosen, inner = pairs * routing_.intermediate;
  scores_.resize(count * routing_.experts);
  weights_.resize(pairs);
  for (std::vector<size_t>* of_pairs : {&chosen_, &places_, &tokens_, &pairs_}) of_pairs->resize(pairs);
  std::iota(pairs_.begin(), pairs_.end(), size_t{0});
  if (routing_.in_turns) turns_.resize(2 * inner);
  gates_.resize(inner);
  up_.resize(inner);
  outputs_.resize(pairs * hidden_);
  room_ = count;
}

void Mixture::run(Pool& pool, const Experts& experts, const float* x, size_t count, ActivationBuffer& buffer,
                  float* y) {
  make_room(count);
  // A choice has no small errors: what decides it is not rounded.
  Linears router(kernels_, Mode::Exact);
  router.add(*experts.router.weight, experts.router.bias, scores_.data(), routing_.experts);
  router.run(pool, x, count, buffer);
  pool.run(count, [&](size_t token) { choose(token); });
  sort(count);

  // In a batch nothing is multiplied in int8, as in dense layers, however few tokens an expert has.
  const Mode mode = count > kFew && mode_ == Mode::Int8 ? Mode::Bf16 : mode_;
  const size_t pairs = count * routing_.chosen, inner = routing_.intermediate;
  const auto with_each = [&](auto add) {
    for (size_t e = 0; e < routing_.experts; ++e)
      if (const size_t size = first_[e + 1] - first_[e]; size > 0) add(experts.each[e], first_[e], size);
  };
  gate_up_.begin(mode, x, hidden_, std::span(tokens_).first(pairs));
  with_each([&](const Expert& expert, size_t first, size_t size) {
    if (routing_.in_turns) {
      gate_up_.add(expert.gate, first, size, turns_.data(), 2 * inner);
    } else {
      gate_up_.add(expert.gate, first, size, gates_.data(), inner);
      gate_up_.add(expert.up, first, size, up_.data(), inner);
    }
  });
  gate_up_.run(pool);
  pool.run(pairs, [&](size_t pair) { activate(pair); });
  down_.begin(mode, gates_.data(), inner, std::span(pairs_).first(pairs));
  with_each([&](const Expert& expert, size_t first, size_t size) {
    down_.add(expert.down, first, size, outputs_.data(), hidden_);
  });
  down_.run(pool);
  pool.run(count, [&](size_t token) { mix(token, y + token * hidden_); });
}

// The experts with the largest scores, of equal ones the first, and their weights.
void Mixture::choose(size_t token) {
  const std::span scores(scores_.data() + token * routing_.experts, routing_.experts);
  const std::span chosen(chosen_.data() + token * routing_.chosen, routing_.chosen);
  const std::span best(weights_.data() + token * routing_.chosen, routing_.chosen);
  std::ranges::fill(chosen, size_t{0});  // where scores are NaN; then logits are
  std::ranges::fill(best, -std::numeric_limits<float>::infinity());
  for (size_t e = 0; e < scores.size(); ++e) {
    if (!(scores[e] > best.back())) continue;
    size_t at = best.size() - 1;
    for (; at > 0 && scores[e] > best[at - 1]; --at) {
      best[at] = best[at - 1];
      chosen[at] = chosen[at - 1];
    }
    best[at] = scores[e];
    chosen[at] = e;
  }
  const float top = best[0];
  float sum = 0;
  for (const float score : routing_.normalized ? std::span<const float>(best) : std::span<const float>(scores))
    sum += std::exp(score - top);
  for (float& weight : best) weight = std::exp(weight - top) / sum;
}

void Mixture::sort(size_t count) {
  const size_t pairs = count * routing_.chosen;
  first_.assign(routing_.experts + 1, 0);
  for (size_t i = 0; i < pairs; ++i) ++first_[chosen_[i] + 1];
  std::partial_sum(first_.begin(), first_.end(), first_.begin());
  std::vector<size_t> next(first_.begin(), first_.end() - 1);
  for (size_t i = 0; i < pairs; ++i) {
    places_[i] = next[chosen_[i]]++;
    tokens_[places_[i]] = i / routing_.chosen;
  }
}

void Mixture::activate(size_t pair) {
  const size_t inner = routing_.intermediate;
  float* gates = gates_.data() + pair * inner;
  float* up = up_.data() + pair * inner;
  if (routing_.in_turns) {
    const float* turns = turns_.data() + pair * 2 * inner;
    for (size_t i = 0; i < inner; ++i) {
      gates[i] = turns[2 * i];
      up[i] = turns[2 * i + 1];
    }
  }
  kernels_.gate(gate_, limit_, gates, up, inner);
}

void Mixture::mix(size_t token, float* y) const {
  std::fill_n(y, hidden_, 0.0F);
  for (size_t i = token * routing_.chosen; i < (token + 1) * routing_.chosen; ++i) {
    const float weight = weights_[i];
    const float* output = outputs_.data() + places_[i] * hidden_;
    for (size_t j = 0; j < hidden_; ++j) y[j] += weight * output[j];
  }
}

}  // namespace halve
