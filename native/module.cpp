// The Python border: check every argument, release the GIL, call the kernels. Nothing is allocated or converted here;
// halve.codecs.dispatch and halve.schemes.native hand in contiguous arrays of the right types.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "border.h"

namespace halve {
namespace {

void set_values(Codec& c, const Array<const float>& values) {
  require(c.bits >= 1 && c.bits <= 8, "a codec has 1 to 8 bits");
  require(values.size() <= size_t{1} << c.bits, "more values than codes");
  std::fill(std::begin(c.values), std::end(c.values), std::numeric_limits<float>::quiet_NaN());
  std::copy_n(values.data(), values.size(), c.values);
}

Codec floating(int bits, int mantissa, int min_exponent, float largest, float smallest, std::optional<int> nan_code,
               bool is_signed, bool has_zero, bool has_negative_zero, const Array<const float>& values) {
  require(bits >= 1 && bits <= 32 && mantissa >= 0 && mantissa <= 23, "a float has 1 to 32 bits, 0 to 23 of mantissa");
  require(min_exponent >= -149 && min_exponent <= 127 && largest > 0 && smallest > 0, "the range is outside float32");
  Codec c{};
  c.kind = Kind::Float;
  c.bits = bits;
  c.mantissa = mantissa;
  c.min_exponent = min_exponent;
  c.min = is_signed ? -largest : 0;
  c.max = largest;
  c.smallest = smallest;
  c.nan_code = nan_code.value_or(-1);
  c.is_signed = is_signed;
  c.has_zero = has_zero;
  c.has_negative_zero = has_negative_zero;
  if (bits <= 8) set_values(c, values);
  return c;
}

Codec integer(int bits, float lowest, float largest, const Array<const float>& values) {
  Codec c{};
  c.kind = Kind::Int;
  c.bits = bits;
  c.min = lowest;
  c.max = largest;
  c.nan_code = -1;
  set_values(c, values);
  return c;
}

Codec codebook(int bits, const Array<const float>& thresholds, const Array<const float>& values) {
  require(values.size() >= 2 && thresholds.size() == values.size() - 1, "n values need n - 1 thresholds, n >= 2");
  Codec c{};
  c.kind = Kind::Codebook;
  c.bits = bits;
  c.min = values.data()[0];
  c.max = values.data()[values.size() - 1];
  c.nan_code = -1;
  set_values(c, values);
  c.thresholds_used = static_cast<int>(thresholds.size());
  std::fill(std::begin(c.thresholds), std::end(c.thresholds), std::numeric_limits<float>::quiet_NaN());
  std::copy_n(thresholds.data(), thresholds.size(), c.thresholds);
  return c;
}

std::optional<ptrdiff_t> encode(const Kernels& k, const Codec& c, const Array<const float>& values,
                                const Array<uint8_t>& codes) {
  require_codes(c);
  require_sizes(codes.size(), values.size(), "codes");
  require_aligned(values);
  ptrdiff_t first_nan = -1;
  {
    const Running running;
    first_nan = k.encode(c, values.data(), codes.data(), values.size());
  }
  return first_nan < 0 ? std::nullopt : std::optional(first_nan);
}

bool decode(const Kernels& k, const Codec& c, const Array<const uint8_t>& codes, const Array<float>& values) {
  require_codes(c);
  require_sizes(values.size(), codes.size(), "values");
  require_aligned(values);
  const Running running;
  return k.decode(c, codes.data(), values.data(), codes.size());
}

void require_packing(int bits, size_t codes, size_t bytes) {
  require(bits == 4 || bits == 6, "packing is native for 4 and 6 bits");
  require(codes % (bits == 4 ? 2 : 4) == 0, "the codes do not end on a byte boundary");
  require_sizes(bytes, codes * static_cast<size_t>(bits) / 8, "the packed array");
}

void pack(const Kernels& k, int bits, const Array<const uint8_t>& codes, const Array<uint8_t>& bytes) {
  require_packing(bits, codes.size(), bytes.size());
  const Running running;
  (bits == 4 ? k.pack4 : k.pack6)(codes.data(), bytes.data(), codes.size());
}

void unpack(const Kernels& k, int bits, const Array<const uint8_t>& bytes, const Array<uint8_t>& codes) {
  require_packing(bits, codes.size(), bytes.size());
  const Running running;
  (bits == 4 ? k.unpack4 : k.unpack6)(bytes.data(), codes.data(), codes.size());
}

float absmax(const Kernels& k, const AnyArray& values) {
  const Dtype dtype = dtype_of(values);
  require_aligned(values);
  const Running running;
  return k.absmax(dtype, values.data(), values.size());
}

bool quantize(const Kernels& k, const AnyArray& weights, const Codec& element, const Codec& scale,
              std::pair<size_t, size_t> tile, const std::string& rule, std::optional<float> tensor_scale,
              const Array<uint8_t>& codes, const Array<float>& scales, std::optional<Array<uint8_t>> zeros) {
  Quantization q = quantization_of(weights, element, scale, tile, rule, tensor_scale, scales, zeros);
  require_sizes(codes.size(), weights.size(), "codes");
  q.codes = codes.data();
  const Running running;
  return k.quantize(q);
}

bool dequantize(const Kernels& k, const Array<const uint8_t>& codes, const Codec& element,
                std::pair<size_t, size_t> tile, const Array<const float>& scales, std::optional<float> tensor_scale,
                std::optional<Array<const uint8_t>> zeros, std::optional<Array<const float>> mins,
                const Array<float>& values) {
  require(codes.ndim() == 2, "a weight is a matrix");  // before its shape is read
  Dequantization d{};
  d.element = &element;
  d.grid = grid_of(codes.shape(0), codes.shape(1), tile);
  d.has_tensor_scale = tensor_scale.has_value();
  d.tensor_scale = tensor_scale.value_or(1.0F);
  require_codes(element);
  require_sizes(values.size(), codes.size(), "values");
  require_sizes(scales.size(), tiles_in(d.grid), "scales");
  require_aligned(scales);
  require_aligned(values);
  d.codes = codes.data();
  d.scales = scales.data();
  d.values = values.data();
  if (zeros.has_value()) {
    require_sizes(zeros->size(), tiles_in(d.grid), "zeros");
    d.zeros = zeros->data();
  }
  if (mins.has_value()) {
    require_sizes(mins->size(), tiles_in(d.grid), "mins");
    require_aligned(*mins);
    d.mins = mins->data();
  }
  const Running running;
  return k.dequantize(d);
}

void energies(const Kernels& k, const AnyArray& reference, const Array<const float>& values,
              const Array<double>& sums) {
  const Dtype dtype = dtype_of(reference);
  require_sizes(values.size(), reference.size(), "values");
  require_sizes(sums.size(), 2 * kEnergySums, "sums");
  require_aligned(reference);
  require_aligned(values);
  require_aligned(sums);
  const Running running;
  k.energies(dtype, reference.data(), values.data(), sums.data(), values.size());
}

}  // namespace
}  // namespace halve

NB_MODULE(_native, m) {
  using namespace halve;
  using namespace nb::literals;

  nb::class_<Codec>(m, "Codec")
      .def_static("floating", &floating, nb::kw_only(), "bits"_a, "mantissa"_a, "min_exponent"_a, "largest"_a,
                  "smallest"_a, "nan_code"_a.none(), "is_signed"_a, "has_zero"_a, "has_negative_zero"_a,
                  "values"_a.noconvert())
      .def_static("integer", &integer, nb::kw_only(), "bits"_a, "lowest"_a, "largest"_a, "values"_a.noconvert())
      .def_static("codebook", &codebook, nb::kw_only(), "bits"_a, "thresholds"_a.noconvert(), "values"_a.noconvert());

  nb::class_<Kernels> kernels(m, "Kernels");
  kernels.def_prop_ro("isa", [](const Kernels& k) { return k.isa; })
      .def("encode", &encode, "codec"_a, "values"_a.noconvert(), "codes"_a.noconvert())
      .def("decode", &decode, "codec"_a, "codes"_a.noconvert(), "values"_a.noconvert())
      .def("pack", &pack, "bits"_a, "codes"_a.noconvert(), "packed"_a.noconvert())
      .def("unpack", &unpack, "bits"_a, "packed"_a.noconvert(), "codes"_a.noconvert())
      .def("absmax", &absmax, "values"_a.noconvert())
      .def("quantize", &quantize, "weights"_a.noconvert(), nb::kw_only(), "element"_a, "scale"_a, "tile"_a, "rule"_a,
           "tensor_scale"_a.none(), "codes"_a.noconvert(), "scales"_a.noconvert(), "zeros"_a.noconvert().none())
      .def("dequantize", &dequantize, "codes"_a.noconvert(), nb::kw_only(), "element"_a, "tile"_a,
           "scales"_a.noconvert(), "tensor_scale"_a.none(), "zeros"_a.noconvert().none(), "mins"_a.noconvert().none(),
           "values"_a.noconvert())
      .def("energies", &energies, "reference"_a.noconvert(), "values"_a.noconvert(), "sums"_a.noconvert());
  bind_algorithms(kernels);
  bind_products(m);
  bind_runtime(m);

  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels* table : available()) names.emplace_back(table->isa);
    return names;
  });
  m.def(
      "kernels",
      [](std::optional<std::string> isa) -> const Kernels& { return select(isa ? isa->c_str() : nullptr); },
      "isa"_a.none() = nb::none(), nb::rv_policy::reference);
}
