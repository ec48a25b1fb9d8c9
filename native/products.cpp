// The Python border of packed weights and their products: halve.runtime.packed.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "border.h"
#include "linear.h"
#include "packed_weight.h"

namespace halve {
namespace {

constexpr std::pair<const char*, Element> kElements[] = {
    {"fp4", Element::Fp4},     {"int4", Element::Int4}, {"int8", Element::Int8}, {"fp8", Element::Fp8},
    {"coded", Element::Coded}, {"fp16", Element::Fp16}, {"bf16", Element::Bf16}, {"fp32", Element::Fp32}};
constexpr std::pair<const char*, Scale> kScales[] = {{"ue4m3", Scale::Ue4m3},
                                                     {"e8m0", Scale::E8m0},
                                                     {"fp16", Scale::Fp16},
                                                     {"bf16", Scale::Bf16},
                                                     {"fp32", Scale::Fp32}};

void require_lines(const void* data) {
  require(reinterpret_cast<uintptr_t>(data) % kLineBytes == 0, "lines begin on multiples of 64 bytes");
}

PackedWeight packed_weight(const std::string& element, const std::string& scale, size_t rows, size_t columns,
                           size_t block, const Array<const uint8_t>& lines, const Array<const uint8_t>& scales,
                           const std::optional<Array<const float>>& offsets,
                           const std::optional<Array<const float>>& table, float factor) {
  Weight w{};
  w.element = named(kElements, element, "element");
  w.scale = named(kScales, scale, "scale");
  w.rows = rows;
  w.columns = columns;
  w.block = block;
  w.factor = factor;
  require(rows > 0 && columns > 0, "the weight is empty");
  require(rows < size_t{1} << 31 && columns < size_t{1} << 31, "a weight has fewer than 2^31 rows and columns");
  require(kPackedScalar.product(w.element, w.scale, Mode::Exact).run != nullptr,
          "there are no kernels for " + element + " with scales in " + scale);
  if (w.scale == Scale::Ue4m3 || w.scale == Scale::E8m0)
    require(block == (w.scale == Scale::Ue4m3 ? 16 : 32), "this scale goes with another block size");
  else
    require(block > 0 && block % kUnit == 0, "the block size is not a multiple of 32");
  const size_t numbers = w.groups() * w.blocks() * kGroupRows;
  require_sizes(lines.size(), w.groups() * w.group_bytes(), "lines");
  require_sizes(scales.size(), numbers * bytes(w.scale), "scales");
  require_lines(lines.data());
  require(std::isfinite(factor), "the factor is not finite");
  w.lines = lines.data();
  w.scales = scales.data();
  if (offsets.has_value()) {
    require(block % kUnit == 0, "offsets go with blocks of multiples of 32");
    require_sizes(offsets->size(), numbers, "offsets");
    require_aligned(*offsets);
    w.offsets = offsets->data();
  }
  require(table.has_value() == (w.element == Element::Coded), "a table goes with coded elements");
  if (table.has_value()) {
    require_sizes(table->size(), 256, "the table");
    require_aligned(*table);
    w.table = table->data();
  }
  return {w, lines, scales, offsets, table};
}

void interleave(const PackedKernels& k, const nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>& codes, size_t padded,
                size_t code_bits, uint32_t flip, const Array<uint8_t>& lines) {
  require(codes.ndim() == 2, "a weight is a matrix");
  require(code_bits == 4 || code_bits == 8 || code_bits == 16 || code_bits == 32, "codes have 4, 8, 16 or 32 bits");
  require(codes.itemsize() == std::max<size_t>(code_bits / 8, 1), "the codes are of another size");
  require_aligned(codes);
  const size_t rows = codes.shape(0), columns = codes.shape(1);
  const size_t groups = (rows + kGroupRows - 1) / kGroupRows;
  require(padded >= columns && padded % kUnit == 0, "the padded columns are not whole units");
  require_sizes(lines.size(), groups * padded * code_bits / 32 * kLineBytes, "lines");
  const Running running;
  k.interleave(codes.data(), rows, columns, padded, code_bits, flip, lines.data());
}

void multiply_all(const PackedKernels& k, Pool& pool, const std::vector<const PackedWeight*>& weights,
                  const Array<const float>& x, const std::vector<Array<float>>& outputs, const std::string& mode_name) {
  const Mode mode = named(kModes, mode_name, "mode");
  require(!weights.empty() && weights.size() == outputs.size(), "every weight has an output");
  require_aligned(x);
  require(x.ndim() == 2, "x is a matrix");
  const size_t count = x.shape(0);
  Linears linears(k, mode);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Weight& w = weights[i]->weight;
    require(x.shape(1) == w.columns, "x has other columns than a weight");
    require_sizes(outputs[i].size(), count * w.rows, "an output");
    require_aligned(outputs[i]);
    linears.add(w, nullptr, outputs[i].data(), w.rows);
  }
  const Running running;
  ActivationBuffer buffer(linears.padded());
  linears.run(pool, x.data(), count, buffer);
}

// Pieces of this size are what `Linears` gives to a thread at a time.
void read(const PackedKernels& k, Pool& pool, const Array<const uint8_t>& memory) {
  constexpr size_t kPiece = size_t{1} << 18;
  require(memory.size() % kPiece == 0, "the memory is not a multiple of 256 KiB");
  require_lines(memory.data());
  const Running running;
  std::atomic<uint64_t> total{0};
  pool.run(memory.size() / kPiece, [&](size_t piece) {
    total.fetch_add(k.read(memory.data() + piece * kPiece, kPiece), std::memory_order_relaxed);
  });
}

}  // namespace

void bind_products(nb::module_& m) {
  using namespace nb::literals;

  nb::class_<Pool>(m, "Pool")
      .def(
          "__init__",
          [](Pool* self, size_t threads) {
            require(threads >= 1 && threads <= 1024, "a pool has 1 to 1024 threads");
            new (self) Pool(threads);
          },
          "threads"_a)
      .def_prop_ro("threads", &Pool::threads);

  nb::class_<PackedWeight>(m, "PackedWeight")
      .def(
          "__init__",
          [](PackedWeight* self, const std::string& element, const std::string& scale, size_t rows, size_t columns,
             size_t block, const Array<const uint8_t>& lines, const Array<const uint8_t>& scales,
             std::optional<Array<const float>> offsets, std::optional<Array<const float>> table, float factor) {
            new (self) PackedWeight(
                packed_weight(element, scale, rows, columns, block, lines, scales, offsets, table, factor));
          },
          nb::kw_only(), "element"_a, "scale"_a, "rows"_a, "columns"_a, "block"_a, "lines"_a.noconvert(),
          "scales"_a.noconvert(), "offsets"_a.noconvert().none(), "table"_a.noconvert().none(), "factor"_a)
      .def_prop_ro("rows", [](const PackedWeight& w) { return w.weight.rows; })
      .def_prop_ro("columns", [](const PackedWeight& w) { return w.weight.columns; });

  nb::class_<PackedKernels>(m, "PackedKernels")
      .def_prop_ro("isa", [](const PackedKernels& k) { return k.isa; })
      .def("interleave", &interleave, "codes"_a.noconvert(), nb::kw_only(), "padded"_a, "bits"_a, "flip"_a,
           "lines"_a.noconvert())
      .def("multiply", &multiply_all, "pool"_a, "weights"_a, "x"_a.noconvert(), "outputs"_a.noconvert(), "mode"_a)
      .def("read", &read, "pool"_a, "memory"_a.noconvert());

  m.def("packed_isas", [] {
    std::vector<std::string> names;
    for (const PackedKernels* table : available_packed()) names.emplace_back(table->isa);
    return names;
  });
  m.def(
      "packed_kernels",
      [](std::optional<std::string> isa) -> const PackedKernels& {
        return select_packed(isa ? isa->c_str() : nullptr);
      },
      "isa"_a.none() = nb::none(), nb::rv_policy::reference);
}

}  // namespace halve
