// The Python border of native/decoder.h: halve.runtime.packed.decoder.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "border.h"
#include "decoder.h"
#include "packed_weight.h"

namespace halve {
namespace {

using Floats = Array<const float>;
using MaybeFloats = std::optional<Floats>;
using PythonRotation = std::tuple<Floats, MaybeFloats, double>;  // frequencies, those of long texts, scale

constexpr std::pair<const char*, Gate> kGates[] = {{"silu", Gate::Silu}, {"gelu_tanh", Gate::GeluTanh},
                                                  {"swigluoai", Gate::SwigluOai}};

const float* numbers(const MaybeFloats& array, size_t size, const char* name) {
  if (!array.has_value()) return nullptr;
  require_sizes(array->size(), size, name);
  require_aligned(*array);
  return array->data();
}

const Weight& weight_of(const nb::handle& object, size_t rows, size_t columns, const char* name) {
  const Weight& w = nb::cast<const PackedWeight&>(object).weight;
  require(w.rows == rows && w.columns == columns,
          std::string(name) + " is [" + std::to_string(w.rows) + ", " + std::to_string(w.columns) + "], not [" +
              std::to_string(rows) + ", " + std::to_string(columns) + "]");
  return w;
}

struct PythonLayer {
  Floats input_norm, mlp_norm;
  MaybeFloats q_norm, k_norm, attention_norm, output_norm, sinks;
  std::vector<nb::object> linears;  // q, k, v, o and gate, up, down or a router
  std::vector<MaybeFloats> biases;
  std::vector<nb::object> experts;  // gate, up, down of each, or gate and up in turns, down
  std::vector<MaybeFloats> expert_biases;
  size_t rotation;
  size_t window;
  float key_scale, value_scale;
};

// A part of a layer that native code multiplies with: its name, rows and columns.
struct Part {
  const char* name;
  size_t rows, columns;
};

std::vector<Linear> linears_of(const std::vector<nb::object>& weights, const std::vector<MaybeFloats>& biases,
                               const std::vector<Part>& parts) {
  require(weights.size() == parts.size() && biases.size() == parts.size(), "a layer has another number of linears");
  std::vector<Linear> linears;
  for (size_t i = 0; i < parts.size(); ++i)
    linears.push_back({&weight_of(weights[i], parts[i].rows, parts[i].columns, parts[i].name),
                       numbers(biases[i], parts[i].rows, "a bias")});
  return linears;
}

Experts experts_of(const PythonLayer& from, const Geometry& g, const Linear& router) {
  const Routing& routing = g.routing;
  const size_t inner = routing.intermediate;
  std::vector<Part> parts;
  for (size_t e = 0; e < routing.experts; ++e) {
    if (routing.in_turns) {
      parts.push_back({"gate and up", 2 * inner, g.hidden});
    } else {
      parts.push_back({"gate", inner, g.hidden});
      parts.push_back({"up", inner, g.hidden});
    }
    parts.push_back({"down", g.hidden, inner});
  }
  const std::vector<Linear> linears = linears_of(from.experts, from.expert_biases, parts);
  Experts experts{router, {}};
  for (auto at = linears.begin(); at != linears.end(); at += routing.in_turns ? 2 : 3)
    experts.each.push_back(routing.in_turns ? Expert{at[0], {}, at[1]} : Expert{at[0], at[1], at[2]});
  return experts;
}

Layer layer_of(const PythonLayer& from, const Geometry& g) {
  const size_t queries = g.heads * g.head_dim, keys = g.kv_heads * g.head_dim;
  const bool sparse = !from.experts.empty();
  const size_t inner = g.intermediate;
  std::vector<Part> parts{
      {"q", queries, g.hidden}, {"k", keys, g.hidden}, {"v", keys, g.hidden}, {"o", g.hidden, queries}};
  if (sparse)
    parts.push_back({"router", g.routing.experts, g.hidden});
  else
    parts.insert(parts.end(), {{"gate", inner, g.hidden}, {"up", inner, g.hidden}, {"down", g.hidden, inner}});
  const std::vector<Linear> linears = linears_of(from.linears, from.biases, parts);
  Layer layer{};
  layer.input_norm = numbers(from.input_norm, g.hidden, "a norm");
  layer.mlp_norm = numbers(from.mlp_norm, g.hidden, "a norm");
  layer.q_norm = numbers(from.q_norm, g.head_dim, "a norm of heads");
  layer.k_norm = numbers(from.k_norm, g.head_dim, "a norm of heads");
  layer.attention_norm = numbers(from.attention_norm, g.hidden, "a norm");
  layer.output_norm = numbers(from.output_norm, g.hidden, "a norm");
  layer.rotation = from.rotation;
  layer.q = linears[0];
  layer.k = linears[1];
  layer.v = linears[2];
  layer.o = linears[3];
  if (sparse) {
    layer.experts = experts_of(from, g, linears[4]);
  } else {
    layer.gate = linears[4];
    layer.up = linears[5];
    layer.down = linears[6];
  }
  layer.sinks = numbers(from.sinks, g.heads, "sinks");
  layer.window = from.window;
  require(from.key_scale > 0 && from.value_scale > 0, "a scale of keys or values is not positive");
  layer.key_scale = from.key_scale;
  layer.value_scale = from.value_scale;
  return layer;
}

using CacheArray = std::variant<Array<uint16_t>, Array<uint8_t>>;  // the bits of halves, or of E4M3

size_t size_of(const CacheArray& cache) {
  return std::visit([](const auto& array) { return array.size(); }, cache);
}

uint8_t* first_of(const CacheArray& cache) {
  return std::visit(
      [](const auto& array) {
        require_aligned(array);
        return reinterpret_cast<uint8_t*>(array.data());
      },
      cache);
}

class PythonDecoder {
 public:
  PythonDecoder(const PackedKernels& kernels, const std::string& mode, const Geometry& g,
                const std::vector<PythonRotation>& rotations, nb::object embedding, const nb::list& layers, Floats norm,
                nb::object head)
      : embedding_(std::move(embedding)), layers_(layers), norm_(std::move(norm)), head_(std::move(head)) {
    require(g.hidden > 0 && g.heads > 0 && g.kv_heads > 0 && g.intermediate > 0 && g.vocabulary > 0, "a size is zero");
    require(g.heads % g.kv_heads == 0, "query heads are a multiple of key heads");
    require(g.head_dim > 0 && g.head_dim % 16 == 0, "heads have a multiple of 16 components");
    const Routing& r = g.routing;
    const bool can_choose = r.chosen >= 1 && r.chosen <= r.experts && r.intermediate > 0;
    require(r.experts == 0 || can_choose, "experts cannot be chosen");
    std::vector<Rotation> turns;
    for (const auto& [frequencies, long_frequencies, scale] : rotations) {
      const size_t size = frequencies.size();
      require(size <= g.head_dim / 2, "a rotation has more frequencies than half a head");
      const float* in_short = numbers(frequencies, size, "frequencies");
      const float* in_long = numbers(long_frequencies, size, "long frequencies");
      turns.push_back({std::vector<float>(in_short, in_short + size),
                       in_long == nullptr ? std::vector<float>() : std::vector<float>(in_long, in_long + size),
                       static_cast<float>(scale)});
    }
    std::vector<Layer> native;
    for (const nb::handle layer : layers_) {
      native.push_back(layer_of(nb::cast<const PythonLayer&>(layer), g));
      require(native.back().rotation < turns.size(), "there is no such rotation");
    }
    decoder_ = std::make_unique<Decoder>(
        kernels, named(kModes, mode, "mode"), g, std::move(turns),
        weight_of(embedding_, g.vocabulary, g.hidden, "embedding"), std::move(native),
        numbers(norm_, g.hidden, "a norm"), weight_of(head_, g.vocabulary, g.hidden, "head"));
  }

  void step(Pool& pool, const Array<const int64_t>& tokens, size_t position, bool in_long_text, const CacheArray& keys,
            const CacheArray& values, const Array<float>& logits) {
    const Cache cache = cache_of(keys, values);
    require_aligned(tokens);
    std::vector<Token> read;
    for (size_t i = 0; i < tokens.size(); ++i)
      read.push_back(token_of(tokens.data()[i], position + i, in_long_text, cache));
    run(pool, read, logits);
  }

  void step_each(Pool& pool, const Array<const int64_t>& tokens, const std::vector<size_t>& positions,
                 const std::vector<bool>& in_long_text, const std::vector<CacheArray>& keys,
                 const std::vector<CacheArray>& values, const Array<float>& logits) {
    require_aligned(tokens);
    require(positions.size() == tokens.size() && in_long_text.size() == tokens.size() && keys.size() == tokens.size() &&
                values.size() == tokens.size(),
            "every token has a position and a cache");
    std::vector<Token> read;
    for (size_t i = 0; i < tokens.size(); ++i) {
      for (size_t j = 0; j < i; ++j)
        require(first_of(keys[i]) != first_of(keys[j]), "every token has a cache of its own");
      read.push_back(token_of(tokens.data()[i], positions[i], in_long_text[i], cache_of(keys[i], values[i])));
    }
    run(pool, read, logits);
  }

 private:
  Cache cache_of(const CacheArray& keys, const CacheArray& values) const {
    require(keys.index() == values.index(), "keys and values are in different formats");
    const size_t size = size_of(keys);
    const size_t of_position = decoder_->layers() * decoder_->geometry().kv_heads * decoder_->geometry().head_dim;
    const size_t capacity = of_position == 0 ? size : size / of_position;
    require(size == capacity * of_position && capacity % 16 == 0, "the cache is of another shape");
    require_sizes(size_of(values), size, "values");
    return {keys.index() == 0 ? CacheNumber::Fp16 : CacheNumber::Fp8, first_of(keys), first_of(values), capacity};
  }

  Token token_of(int64_t id, size_t position, bool in_long_text, const Cache& cache) const {
    require(id >= 0 && static_cast<size_t>(id) < decoder_->geometry().vocabulary, "a token is outside the vocabulary");
    require(position < cache.capacity, "the cache is too short");
    return {id, position, in_long_text, cache};
  }

  void run(Pool& pool, const std::vector<Token>& tokens, const Array<float>& logits) {
    const size_t vocabulary = decoder_->geometry().vocabulary, wanted = logits.size() / vocabulary;
    require(!tokens.empty(), "there are no tokens");
    require(logits.size() == wanted * vocabulary && wanted <= tokens.size(), "logits are of another shape");
    require_aligned(logits);
    const Running running;
    decoder_->step(pool, tokens, tokens.size() - wanted, logits.data());
  }

  nb::object embedding_;
  nb::list layers_;
  Floats norm_;
  nb::object head_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace

void bind_runtime(nb::module_& m) {
  using namespace nb::literals;

  nb::class_<PythonLayer>(m, "DecoderLayer")
      .def(
          "__init__",
          [](PythonLayer* self, Floats input_norm, Floats mlp_norm, MaybeFloats q_norm, MaybeFloats k_norm,
             MaybeFloats attention_norm, MaybeFloats output_norm, MaybeFloats sinks, std::vector<nb::object> linears,
             std::vector<MaybeFloats> biases, std::vector<nb::object> experts, std::vector<MaybeFloats> expert_biases,
             size_t rotation, size_t window, float key_scale, float value_scale) {
            new (self) PythonLayer{std::move(input_norm),
                                   std::move(mlp_norm),
                                   std::move(q_norm),
                                   std::move(k_norm),
                                   std::move(attention_norm),
                                   std::move(output_norm),
                                   std::move(sinks),
                                   std::move(linears),
                                   std::move(biases),
                                   std::move(experts),
                                   std::move(expert_biases),
                                   rotation,
                                   window,
                                   key_scale,
                                   value_scale};
          },
          nb::kw_only(), "input_norm"_a.noconvert(), "mlp_norm"_a.noconvert(), "q_norm"_a.noconvert().none(),
          "k_norm"_a.noconvert().none(), "attention_norm"_a.noconvert().none(), "output_norm"_a.noconvert().none(),
          "sinks"_a.noconvert().none(), "linears"_a, "biases"_a.noconvert(), "experts"_a,
          "expert_biases"_a.noconvert(), "rotation"_a, "window"_a, "key_scale"_a, "value_scale"_a);

  nb::class_<PythonDecoder>(m, "Decoder")
      .def(
          "__init__",
          [](PythonDecoder* self, const PackedKernels& kernels, const std::string& mode, size_t hidden, size_t heads,
             size_t kv_heads, size_t head_dim, size_t intermediate, size_t vocabulary, float eps,
             float embedding_scale, float attention_scale, float attention_cap, float logit_cap,
             const std::string& gate, float gate_limit, size_t experts, size_t experts_per_token,
             bool experts_normalized, size_t expert_intermediate, bool experts_in_turns,
             const std::vector<PythonRotation>& rotations, nb::object embedding, const nb::list& layers, Floats norm,
             nb::object head) {
            const Routing routing{experts, experts_per_token, experts_normalized, expert_intermediate,
                                  experts_in_turns};
            const Geometry geometry{hidden,          heads,         kv_heads,  head_dim,
                                    intermediate,    vocabulary,    eps,       embedding_scale,
                                    attention_scale, attention_cap, logit_cap, named(kGates, gate, "gate"),
                                    gate_limit,      routing};
            new (self) PythonDecoder(kernels, mode, geometry, rotations, std::move(embedding), layers, std::move(norm),
                                     std::move(head));
          },
          "kernels"_a, nb::kw_only(), "mode"_a, "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "intermediate"_a,
          "vocabulary"_a, "eps"_a, "embedding_scale"_a, "attention_scale"_a, "attention_cap"_a, "logit_cap"_a,
          "gate"_a, "gate_limit"_a, "experts"_a, "experts_per_token"_a, "experts_normalized"_a, "expert_intermediate"_a,
          "experts_in_turns"_a, "rotations"_a.noconvert(), "embedding"_a, "layers"_a, "norm"_a.noconvert(), "head"_a)
      .def("step", &PythonDecoder::step, "pool"_a, "tokens"_a.noconvert(), nb::kw_only(), "position"_a,
           "in_long_text"_a, "keys"_a.noconvert(), "values"_a.noconvert(), "logits"_a.noconvert())
      .def("step_each", &PythonDecoder::step_each, "pool"_a, "tokens"_a.noconvert(), nb::kw_only(), "positions"_a,
           "in_long_text"_a, "keys"_a.noconvert(), "values"_a.noconvert(), "logits"_a.noconvert());
}

}  // namespace halve
