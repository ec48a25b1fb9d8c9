// The Python border of the kernels that halve.algorithms.kernels.native calls.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "border.h"

namespace halve {
namespace {

template <class T>
using Optional = std::optional<Array<T>>;

template <class A>
void require_array(const A& array, size_t size, const char* name) {
  require_sizes(array.size(), size, name);
  require_aligned(array);
}

// Elements that can be rounded side by side (native/rounding.inc).
void require_element(const Codec& element) {
  require_codes(element);
  require(element.kind != Kind::Float || (element.is_signed && element.has_zero), "elements have a sign and a zero");
}

bool search_scales(const Kernels& k, const AnyArray& weights, const Codec& element, const Codec& scale,
                   std::pair<size_t, size_t> tile, const std::string& rule, std::optional<float> tensor_scale,
                   const Array<const float>& importance, std::pair<int, int> neighbours,
                   const Array<const float>& divisors, int zero_shifts, int refinements, const Array<float>& scales,
                   const Optional<uint8_t>& zeros) {
  const auto [below, above] = neighbours;
  require_element(element);
  require(below >= 0 && above >= 0 && zero_shifts >= 0 && refinements >= 0, "counts are not negative");
  require((below == 0 && above == 0) || scale.bits <= 8, "neighbours by code are for scales of at most 8 bits");
  require(zero_shifts == 0 || zeros.has_value(), "there are no zero points to shift");
  const size_t scale_count = 1 + static_cast<size_t>(below) + static_cast<size_t>(above) + divisors.size();
  require(scale_count * (1 + 2 * static_cast<size_t>(zero_shifts)) <= kMaxCandidates, "too many candidates");
  ScaleSearch s{};
  s.block = quantization_of(weights, element, scale, tile, rule, tensor_scale, scales, zeros);
  require_array(importance, s.block.grid.columns, "importance");
  require_aligned(divisors);
  s.importance = importance.data();
  s.below = below;
  s.above = above;
  s.divisors = divisors.data();
  s.divisor_count = divisors.size();
  s.zero_shifts = zero_shifts;
  s.refinements = refinements;
  const Running running;
  return k.search_scales(s);
}

void assign_codes(const Kernels& k, const AnyArray& weights, const Codec& element, std::pair<size_t, size_t> tile,
                  const Array<const float>& scales, std::optional<float> tensor_scale,
                  const Optional<const uint8_t>& zeros, const Array<uint8_t>& codes) {
  require(weights.ndim() == 2, "a weight is a matrix");  // before its shape is read
  require_element(element);
  Assignment a{};
  a.element = &element;
  a.grid = grid_of(weights.shape(0), weights.shape(1), tile);
  a.has_tensor_scale = tensor_scale.has_value();
  a.tensor_scale = tensor_scale.value_or(1.0F);
  a.dtype = dtype_of(weights);
  require_aligned(weights);
  require_array(scales, tiles_in(a.grid), "scales");
  require_sizes(codes.size(), weights.size(), "codes");
  if (zeros.has_value()) {
    require(element.kind == Kind::Int, "zero points go with integers");
    require_sizes(zeros->size(), tiles_in(a.grid), "zeros");
    a.zeros = zeros->data();
  }
  a.weights = weights.data();
  a.scales = scales.data();
  a.codes = codes.data();
  const Running running;
  k.assign_codes(a);
}

void require_square(const Array<const float>& matrix, size_t columns, const char* name) {
  require(matrix.ndim() == 2 && matrix.shape(0) == columns, std::string(name) + " is not a matrix of the columns");
  require_array(matrix, columns * columns, name);
}

// The kernels follow the order without looking.
void require_order(const Array<const uint32_t>& order, size_t columns) {
  require_array(order, columns, "order");
  for (size_t i = 0; i < columns; ++i) require(order.data()[i] < columns, "the order names a column that is not there");
}

bool factor(const Kernels& k, const Array<const float>& hessian, const Array<const uint32_t>& order, double damping,
            const Array<double>& work, const Array<float>& feedback, const Array<float>& importance) {
  Factorization f{};
  f.columns = importance.size();
  require_square(hessian, f.columns, "hessian");
  require_order(order, f.columns);
  require_array(work, f.columns * factor_stride(f.columns), "work");
  require_array(feedback, f.columns * f.columns, "feedback");
  require_aligned(importance);
  require(std::isfinite(damping), "damping is finite");
  f.hessian = hessian.data();
  f.order = order.data();
  f.damping = damping;
  f.work = work.data();
  f.feedback = feedback.data();
  f.importance = importance.data();
  const Running running;
  return k.factor(f);
}

Rows rows_of(const AnyArray& weights, const Codec& element, size_t width, const Optional<const uint8_t>& zeros,
             const Array<uint8_t>& codes) {
  require(weights.ndim() == 2, "a weight is a matrix");  // before its shape is read
  require_element(element);
  Rows r{};
  r.element = &element;
  r.rows = weights.shape(0);
  r.columns = weights.shape(1);
  r.width = width;
  require(width > 0, "a block has no columns");
  const size_t blocks = r.rows * ((r.columns + width - 1) / width);
  r.dtype = dtype_of(weights);
  require_aligned(weights);
  require_sizes(codes.size(), weights.size(), "codes");
  if (zeros.has_value()) {
    require(element.kind == Kind::Int, "zero points go with integers");
    require_sizes(zeros->size(), blocks, "zeros");
    r.zeros = zeros->data();
  }
  r.weights = weights.data();
  r.codes = codes.data();
  return r;
}

size_t blocks_in(const Rows& r) { return r.rows * ((r.columns + r.width - 1) / r.width); }

void feed_back(const Kernels& k, const AnyArray& weights, const Codec& element, size_t width,
               const Array<const float>& steps, const Optional<const uint8_t>& zeros,
               const Array<const uint32_t>& order, const Array<const float>& feedback,
               const Array<const float>& importance, const Array<uint8_t>& codes) {
  Feedback f{};
  f.rows = rows_of(weights, element, width, zeros, codes);
  require_array(steps, blocks_in(f.rows), "steps");
  require_order(order, f.rows.columns);
  require_square(feedback, f.rows.columns, "feedback");
  require_array(importance, f.rows.columns, "importance");
  f.steps = steps.data();
  f.order = order.data();
  f.feedback = feedback.data();
  f.importance = importance.data();
  const Running running;
  k.feed_back(f);
}

void descend(const Kernels& k, const AnyArray& weights, const Codec& element, size_t width,
             std::optional<const Codec*> scale, std::optional<float> tensor_scale, const Array<float>& scales,
             const Optional<const uint8_t>& zeros, const Array<const float>& hessian, float damping, int sweeps,
             const Array<uint8_t>& codes) {
  Descent d{};
  d.rows = rows_of(weights, element, width, zeros, codes);
  d.moves_scales = scale.has_value();
  d.scale = scale.value_or(nullptr);
  require(!d.moves_scales || d.scale->kind == Kind::Float, "scales are floats");
  require(!d.moves_scales || width <= kDescentColumns, "the block is too wide for its scale to move");
  require_array(scales, blocks_in(d.rows), "scales");
  require_square(hessian, d.rows.columns, "hessian");
  require(std::isfinite(damping) && sweeps >= 0, "damping is finite, sweeps are not negative");
  d.has_tensor_scale = tensor_scale.has_value();
  d.tensor_scale = tensor_scale.value_or(1.0F);
  d.scales = scales.data();
  d.hessian = hessian.data();
  d.damping = damping;
  d.sweeps = sweeps;
  const Running running;
  k.descend(d);
}

}  // namespace

void bind_algorithms(nb::class_<Kernels>& kernels) {
  using namespace nb::literals;
  kernels
      .def("search_scales", &search_scales, "weights"_a.noconvert(), nb::kw_only(), "element"_a, "scale"_a, "tile"_a,
           "rule"_a, "tensor_scale"_a.none(), "importance"_a.noconvert(), "neighbours"_a, "divisors"_a.noconvert(),
           "zero_shifts"_a, "refinements"_a, "scales"_a.noconvert(), "zeros"_a.noconvert().none())
      .def("assign_codes", &assign_codes, "weights"_a.noconvert(), nb::kw_only(), "element"_a, "tile"_a,
           "scales"_a.noconvert(), "tensor_scale"_a.none(), "zeros"_a.noconvert().none(), "codes"_a.noconvert())
      .def("factor", &factor, "hessian"_a.noconvert(), nb::kw_only(), "order"_a.noconvert(), "damping"_a,
           "work"_a.noconvert(), "feedback"_a.noconvert(), "importance"_a.noconvert())
      .def("factor_stride", [](const Kernels&, size_t columns) { return factor_stride(columns); }, "columns"_a)
      .def("feed_back", &feed_back, "weights"_a.noconvert(), nb::kw_only(), "element"_a, "width"_a,
           "steps"_a.noconvert(), "zeros"_a.noconvert().none(), "order"_a.noconvert(), "feedback"_a.noconvert(),
           "importance"_a.noconvert(), "codes"_a.noconvert())
      .def("descend", &descend, "weights"_a.noconvert(), nb::kw_only(), "element"_a, "width"_a, "scale"_a.none(),
           "tensor_scale"_a.none(), "scales"_a.noconvert(), "zeros"_a.noconvert().none(), "hessian"_a.noconvert(),
           "damping"_a, "sweeps"_a, "codes"_a.noconvert());
}

}  // namespace halve
