#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace halve {
namespace {

size_t widest(const std::vector<Layer>& layers, const Weight& head) {
  size_t padded = head.padded();
  for (const Layer& layer : layers)
    for (const Linear& linear : {layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down,
                                 layer.experts.has_value() ? layer.experts->router : Linear{}})
      if (linear.weight != nullptr) padded = std::max(padded, linear.weight->padded());
  return padded;
}

}  // namespace

Decoder::Decoder(const PackedKernels& kernels, Mode mode, const Geometry& geometry, std::vector<Rotation> rotations,
                 const Weight& embedding, std::vector<Layer> layers, const float* norm, const Weight& head)
    : kernels_(kernels),
      mode_(mode),
      geometry_(geometry),
      rotations_(std::move(rotations)),
      embedding_(embedding),
      layers_(std::move(layers)),
      norm_(norm),
      head_(head),
      buffer_(widest(layers_, head)),
      mixture_(kernels, mode, geometry.routing, geometry.hidden, geometry.gate, geometry.gate_limit) {}

void Decoder::make_room(size_t count) {
  if (count <= room_) return;
  const Geometry& g = geometry_;
  const size_t queries = g.heads * g.head_dim, keys = g.kv_heads * g.head_dim;
  for (std::vector<float>* of_hidden : {&x_, &normed_, &added_}) of_hidden->resize(count * g.hidden);
  for (std::vector<float>* of_queries : {&q_, &attended_}) of_queries->resize(count * queries);
  for (std::vector<float>* of_keys : {&k_, &v_}) of_keys->resize(count * keys);
  for (std::vector<float>* of_mlp : {&gates_, &up_}) of_mlp->resize(count * g.intermediate);
  products_.clear();
  for (const Layer& layer : layers_) {
    Products& p = products_.emplace_back();
    p.qkv = p.o = p.gate_up = p.down = Linears(kernels_, mode_);
    p.qkv.add(*layer.q.weight, layer.q.bias, q_.data(), queries);
    p.qkv.add(*layer.k.weight, layer.k.bias, k_.data(), keys);
    p.qkv.add(*layer.v.weight, layer.v.bias, v_.data(), keys);
    p.o.add(*layer.o.weight, layer.o.bias, added_.data(), g.hidden);
    if (layer.experts.has_value()) continue;
    p.gate_up.add(*layer.gate.weight, layer.gate.bias, gates_.data(), g.intermediate);
    p.gate_up.add(*layer.up.weight, layer.up.bias, up_.data(), g.intermediate);
    p.down.add(*layer.down.weight, layer.down.bias, added_.data(), g.hidden);
  }
  room_ = count;
}

void Decoder::step(Pool& pool, std::span<const Token> tokens, size_t start, float* logits) {
  const size_t count = tokens.size();
  make_room(count);
  const Geometry& g = geometry_;
  for (size_t t = 0; t < count; ++t) {
    float* x = x_.data() + t * g.hidden;
    kernels_.row(embedding_, static_cast<size_t>(tokens[t].id), x);
    if (g.embedding_scale != 1)
      for (size_t i = 0; i < g.hidden; ++i) x[i] *= g.embedding_scale;
  }
  turn(tokens);
  const auto normalize = [&](const float* weight, size_t first) {
    pool.run(count - first, [&](size_t t) {
      const size_t at = (first + t) * g.hidden;
      kernels_.normalize(x_.data() + at, weight, g.hidden, g.eps, normed_.data() + at);
    });
  };
  for (size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    const Products& products = products_[index];
    normalize(layer.input_norm, 0);
    products.qkv.run(pool, normed_.data(), count, buffer_);
    attend(pool, layer, index, tokens);
    products.o.run(pool, attended_.data(), count, buffer_);
    add(pool, layer.attention_norm, count);
    normalize(layer.mlp_norm, 0);
    apply_mlp(pool, layer, products, count);
    add(pool, layer.output_norm, count);
  }
  if (start >= count) return;
  normalize(norm_, start);
  Linears head(kernels_, mode_);
  head.add(head_, nullptr, logits, g.vocabulary);
  head.run(pool, normed_.data() + start * g.hidden, count - start, buffer_);
  if (g.logit_cap > 0)
    pool.run(count - start, [&](size_t t) { kernels_.cap(logits + t * g.vocabulary, g.vocabulary, g.logit_cap); });
}

void Decoder::apply_mlp(Pool& pool, const Layer& layer, const Products& products, size_t count) {
  if (layer.experts.has_value()) {
    mixture_.run(pool, *layer.experts, normed_.data(), count, buffer_, added_.data());
    return;
  }
  const Geometry& g = geometry_;
  products.gate_up.run(pool, normed_.data(), count, buffer_);
  pool.run(count, [&](size_t t) {
    float* gates = gates_.data() + t * g.intermediate;
    kernels_.gate(g.gate, g.gate_limit, gates, up_.data() + t * g.intermediate, g.intermediate);
  });
  products.down.run(pool, gates_.data(), count, buffer_);
}

void Decoder::turn(std::span<const Token> tokens) {
  cosines_.resize(rotations_.size());
  sines_.resize(rotations_.size());
  for (size_t r = 0; r < rotations_.size(); ++r) {
    const Rotation& rotation = rotations_[r];
    cosines_[r].clear();
    sines_[r].clear();
    for (const Token& token : tokens) {
      const bool in_long = token.in_long_text && !rotation.long_frequencies.empty();
      for (const float frequency : in_long ? rotation.long_frequencies : rotation.frequencies) {
        const float angle = static_cast<float>(token.position) * frequency;
        cosines_[r].push_back(std::cos(angle) * rotation.scale);
        sines_[r].push_back(std::sin(angle) * rotation.scale);
      }
    }
  }
}

void Decoder::attend(Pool& pool, const Layer& layer, size_t index, std::span<const Token> tokens) {
  const Geometry& g = geometry_;
  const size_t half = rotations_[layer.rotation].frequencies.size(), group = g.heads / g.kv_heads;
  const float* cosines = cosines_[layer.rotation].data();
  const float* sines = sines_[layer.rotation].data();
  const auto of_head = [&](uint8_t* memory, size_t t, size_t head) {
    const Cache& cache = tokens[t].cache;
    return memory + (index * g.kv_heads + head) * cache.capacity * g.head_dim * bytes(cache.number);
  };
  const auto turn = [&](size_t t, float* vector, const float* norm, float factor) {
    if (norm != nullptr) kernels_.normalize(vector, norm, g.head_dim, g.eps, vector);
    kernels_.rotate(vector, g.head_dim, cosines + t * half, sines + t * half, half, factor);
  };
  const auto prepare = [&](size_t head) {
    for (size_t t = 0; t < tokens.size(); ++t) {
      const size_t at = (t * g.kv_heads + head) * g.head_dim;
      turn(t, k_.data() + at, layer.k_norm, 1 / layer.key_scale);
      if (layer.value_scale != 1)
        for (size_t i = 0; i < g.head_dim; ++i) v_[at + i] /= layer.value_scale;
      const Cache& cache = tokens[t].cache;
      kernels_.remember(cache.number, k_.data() + at, v_.data() + at, g.head_dim, tokens[t].position,
                        of_head(cache.keys, t, head), of_head(cache.values, t, head));
    }
  };
  const auto answer = [&](size_t head, size_t t) {
    thread_local std::vector<float> scores;
    const size_t at = (t * g.heads + head * group) * g.head_dim;
    const float factor = g.attention_scale * layer.key_scale;
    for (size_t i = 0; i < group; ++i) turn(t, q_.data() + at + i * g.head_dim, layer.q_norm, factor);
    const size_t last = tokens[t].position + 1;
    const size_t first = layer.window != 0 && last > layer.window ? last - layer.window : 0;
    const Cache& cache = tokens[t].cache;
    const float* sinks = layer.sinks == nullptr ? nullptr : layer.sinks + head * group;
    const Attention seen{cache.number, of_head(cache.keys, t, head), of_head(cache.values, t, head), layer.value_scale,
                         g.head_dim,   first, last, sinks, g.attention_cap};
    if (scores.size() < seen.scores()) scores.resize(2 * seen.scores());
    kernels_.attend(seen, q_.data() + at, group, scores.data(), attended_.data() + at);
  };
  if (tokens.size() == 1) {
    pool.run(g.kv_heads, [&](size_t head) {
      prepare(head);
      answer(head, 0);
    });
    return;
  }
  pool.run(g.kv_heads, prepare);
  pool.run(g.kv_heads * tokens.size(), [&](size_t i) { answer(i % g.kv_heads, i / g.kv_heads); });
}

// What has been computed joins the residual, behind a norm where there is one.
void Decoder::add(Pool& pool, const float* norm, size_t count) {
  const size_t hidden = geometry_.hidden;
  pool.run(count, [&](size_t t) {
    float* x = x_.data() + t * hidden;
    float* y = added_.data() + t * hidden;
    if (norm != nullptr) kernels_.normalize(y, norm, hidden, geometry_.eps, y);
    for (size_t i = 0; i < hidden; ++i) x[i] += y[i];
  });
}

}  // namespace halve
