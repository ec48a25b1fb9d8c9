// A decoder: one call a step, from tokens to logits. halve.models.decoder says what the numbers mean, and
// halve.runtime.transformer is the reference.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "linear.h"
#include "mixture.h"
#include "packed.h"
#include "threads.h"

namespace halve {

struct Geometry {
  size_t hidden;
  size_t heads;
  size_t kv_heads;
  size_t head_dim;  // a multiple of 16
  size_t intermediate;  // of layers without experts
  size_t vocabulary;
  float eps;
  float embedding_scale;
  float attention_scale;
  float attention_cap;  // 0: none
  float logit_cap;      // 0: none
  Gate gate;
  float gate_limit;  // of Gate::SwigluOai
  Routing routing;
};

// Radians a position of the first components of a head; cosines and sines are multiplied by `scale`.
struct Rotation {
  std::vector<float> frequencies;
  std::vector<float> long_frequencies;  // in long texts, as many; empty: the same in all
  float scale;
};

struct Layer {
  const float* input_norm;
  Linear q, k, v;
  const float* q_norm;  // of each head; null: none
  const float* k_norm;
  Linear o;
  const float* mlp_norm;
  Linear gate, up, down;  // where there are no experts
  std::optional<Experts> experts;
  const float* sinks;  // of each head, a score; null: none
  const float* attention_norm;  // behind attention and MLP; null: none
  const float* output_norm;
  size_t rotation;
  size_t window;  // positions that a query sees, its own included; 0: all before it
  float key_scale;  // what keys and values are divided by before they are stored
  float value_scale;
};

// Keys and values of one sequence, [layer][kv_head] in the order of native/transformer.inc.
struct Cache {
  CacheNumber number;
  uint8_t* keys;
  uint8_t* values;
  size_t capacity;  // positions, a multiple of 16
};

// A token to be read, and what the sequence that it belongs to has read before.
struct Token {
  int64_t id;
  size_t position;
  bool in_long_text;
  Cache cache;
};

class Decoder {
 public:
  // Weights and arrays are not copied.
  Decoder(const PackedKernels& kernels, Mode mode, const Geometry& geometry, std::vector<Rotation> rotations,
          const Weight& embedding, std::vector<Layer> layers, const float* norm, const Weight& head);

  const Geometry& geometry() const { return geometry_; }
  size_t layers() const { return layers_.size(); }

  // Tokens of one sequence, one after the other, or each of its own. Logits of all but the first `start` of them go to
  // `logits`.
  void step(Pool& pool, std::span<const Token> tokens, size_t start, float* logits);

 private:
  // The products of one layer, in the order in which they run.
  struct Products {
    Linears qkv, o, gate_up, down;
  };

  void make_room(size_t count);
  void apply_mlp(Pool& pool, const Layer& layer, const Products& products, size_t count);
  void attend(Pool& pool, const Layer& layer, size_t index, std::span<const Token> tokens);
  void add(Pool& pool, const float* norm, size_t count);
  void turn(std::span<const Token> tokens);

  const PackedKernels& kernels_;
  const Mode mode_;
  const Geometry geometry_;
  const std::vector<Rotation> rotations_;
  const Weight& embedding_;
  const std::vector<Layer> layers_;
  const float* norm_;
  const Weight& head_;

  size_t room_ = 0;  // tokens that the buffers below hold
  std::vector<Products> products_;
  std::vector<float> x_, normed_, q_, k_, v_, attended_, added_, gates_, up_;
  std::vector<std::vector<float>> cosines_, sines_;  // of each rotation
  ActivationBuffer buffer_;
  Mixture mixture_;
};

}  // namespace halve
