// What the Python border checks of arguments, and how it runs a kernel.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "float_environment.h"
#include "isa.h"

namespace halve {

namespace nb = nanobind;

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

inline void require(bool holds, const std::string& what) {
  if (!holds) throw nb::value_error(what.c_str());
}

inline void require_sizes(size_t actual, size_t expected, const char* name) {
  require(actual == expected,
          std::string(name) + " holds " + std::to_string(actual) + " numbers, not " + std::to_string(expected));
}

// Numbers that do not lie on multiples of their size (views into files) would be undefined behaviour.
template <class A>
void require_aligned(const A& array) {
  require(reinterpret_cast<uintptr_t>(array.data()) % array.itemsize() == 0, "an array is not aligned to its dtype");
}

// The kernels run without the GIL and in a float environment of their own.
struct Running {
  nb::gil_scoped_release release;
  FloatEnvironment environment;
};

inline void require_codes(const Codec& c) { require(c.bits <= 8, "codes of more than 8 bits do not fit in a byte"); }

inline Dtype dtype_of(const AnyArray& x) {
  if (x.dtype() == nb::dtype<float>()) return Dtype::F32;
  if (x.dtype() == nb::dtype<uint16_t>()) return Dtype::BF16;
  const nb::dlpack::dtype half{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
  if (x.dtype() == half) return Dtype::F16;
  throw nb::type_error("expected float32, float16, or the bits of bfloat16 as uint16");
}

inline Rule rule_of(const std::string& name) {
  static constexpr std::pair<const char*, Rule> kRules[] = {{"max", Rule::Max},       {"range", Rule::Range},
                                                            {"signed", Rule::Signed}, {"floor", Rule::Floor},
                                                            {"even", Rule::Even},     {"rceil", Rule::Rceil}};
  for (const auto& [known, rule] : kRules)
    if (name == known) return rule;
  throw nb::value_error(("unknown scale rule '" + name + "'").c_str());
}

inline size_t tiles_in(const Grid& g) {
  return ((g.rows + g.height - 1) / g.height) * ((g.columns + g.width - 1) / g.width);
}

inline Grid grid_of(size_t rows, size_t columns, std::pair<size_t, size_t> tile) {
  require(rows > 0 && columns > 0 && tile.first > 0 && tile.second > 0, "the matrix or the tile is empty");
  return {rows, columns, tile.first, tile.second};
}

// What `quantize` and the searches for better scales are told; codes are left out.
inline Quantization quantization_of(const AnyArray& weights, const Codec& element, const Codec& scale,
                                    std::pair<size_t, size_t> tile, const std::string& rule,
                                    std::optional<float> tensor_scale, const Array<float>& scales,
                                    const std::optional<Array<uint8_t>>& zeros) {
  require(weights.ndim() == 2, "a weight is a matrix");  // before its shape is read
  Quantization q{};
  q.element = &element;
  q.scale = &scale;
  q.grid = grid_of(weights.shape(0), weights.shape(1), tile);
  q.rule = rule_of(rule);
  const bool power_of_two = q.rule == Rule::Floor || q.rule == Rule::Even || q.rule == Rule::Rceil;
  require_codes(element);
  require(scale.kind == Kind::Float, "scales are floats");
  if (zeros.has_value())
    require(element.kind == Kind::Int && element.min == 0, "zero points go with unsigned integers");
  else
    require(power_of_two ? element.kind == Kind::Float : scale.has_zero, "the rule does not go with these formats");
  q.has_tensor_scale = tensor_scale.has_value();
  q.tensor_scale = tensor_scale.value_or(1.0F);
  q.weights = weights.data();
  q.dtype = dtype_of(weights);
  require_sizes(scales.size(), tiles_in(q.grid), "scales");
  require_aligned(weights);
  require_aligned(scales);
  q.scales = scales.data();
  if (zeros.has_value()) {
    require_sizes(zeros->size(), tiles_in(q.grid), "zeros");
    q.zeros = zeros->data();
  }
  return q;
}

// The kernels of halve.algorithms.
void bind_algorithms(nb::class_<Kernels>& kernels);

// Packed weights, of halve.runtime.packed.
void bind_products(nb::module_& m);

// Inference with them.
void bind_runtime(nb::module_& m);

}  // namespace halve
