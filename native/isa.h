// One table of kernels per instruction set. Adding a kernel = one line here + one body in a .inc file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "codec.h"

namespace halve {

enum class Dtype : uint8_t { F32, F16, BF16 };
enum class Rule : uint8_t { Max, Range, Signed, Floor, Even, Rceil };  // halve.schemes.quantize.scale_rules

// A matrix, row after row, cut into tiles of height x width; the last tile down and across may be partial.
struct Grid {
  size_t rows;
  size_t columns;
  size_t height;
  size_t width;
};

struct Quantization {
  const Codec* element;
  const Codec* scale;
  Grid grid;
  Rule rule;
  bool has_tensor_scale;
  float tensor_scale;
  const void* weights;
  Dtype dtype;
  uint8_t* codes;
  float* scales;
  uint8_t* zeros;  // null: no zero points
};

struct Dequantization {
  const Codec* element;
  Grid grid;
  bool has_tensor_scale;
  float tensor_scale;
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros;  // null: none
  const float* mins;     // null: none
  float* values;
};

// Weights, and the scales under which they are to have codes.
struct Assignment {
  const Codec* element;
  Grid grid;
  bool has_tensor_scale;
  float tensor_scale;
  const void* weights;
  Dtype dtype;
  const float* scales;
  const uint8_t* zeros;  // null: none
  uint8_t* codes;
};

constexpr size_t kMaxCandidates = 128;

// Candidate scales of a block: the rule's, those `below` and `above` it by code of the scale format, the extent over each
// divisor; with zero points, each once more under zero points shifted by up to `zero_shifts` either way. The best is
// then refined by least squares. `block.codes` is not touched.
struct ScaleSearch {
  Quantization block;
  const float* importance;  // [columns]
  int below;
  int above;
  const float* divisors;
  size_t divisor_count;
  int zero_shifts;
  int refinements;
};

// Numbers from one row of a factorisation's scratch memory to the next: an odd number of cache lines, so that a column
// does not fall into one set of the cache.
static constexpr size_t factor_stride(size_t columns) { return ((columns + 7) / 8 | 1) * 8; }

// H, reordered and with `damping` on its diagonal, is T'T with T lower triangular. feedback[j][i] = T[j][i] / T[j][j] for
// i < j, else 0; importance[j] = T[j][j]^2. `work` is scratch memory for columns * factor_stride
// numbers.
struct Factorization {
  size_t columns;
  const float* hessian;
  const uint32_t* order;
  double damping;
  double* work;
  float* feedback;
  float* importance;
};

// A weight with blocks of `width` columns in each row, and its codes, which the kernels below replace by better ones.
struct Rows {
  const Codec* element;
  size_t rows;
  size_t columns;
  size_t width;
  const void* weights;
  Dtype dtype;
  const uint8_t* zeros;  // [rows, blocks]; null: none
  uint8_t* codes;
};

struct Feedback {
  Rows rows;
  const float* steps;  // [rows, blocks]
  const uint32_t* order;
  const float* feedback;
  const float* importance;
};

constexpr size_t kDescentColumns = 128;  // the widest block whose scale moves

struct Descent {
  Rows rows;
  const Codec* scale;
  bool has_tensor_scale;
  float tensor_scale;
  float* scales;  // [rows, blocks]
  bool moves_scales;
  const float* hessian;
  float damping;
  int sweeps;
};

constexpr size_t kEnergySums = 16;

struct Kernels {
  const char* isa;
  // To nearest even, saturating. Returns the index of the first NaN that the format cannot hold, else -1.
  ptrdiff_t (*encode)(const Codec&, const float* values, uint8_t* codes, size_t n);
  // False where a code has more bits than the format.
  bool (*decode)(const Codec&, const uint8_t* codes, float* values, size_t n);
  // n codes, least significant bit first; n is a multiple of 2 (4 bits) or 4 (6 bits).
  void (*pack4)(const uint8_t* codes, uint8_t* bytes, size_t n);
  void (*pack6)(const uint8_t* codes, uint8_t* bytes, size_t n);
  void (*unpack4)(const uint8_t* bytes, uint8_t* codes, size_t n);
  void (*unpack6)(const uint8_t* bytes, uint8_t* codes, size_t n);
  // Largest magnitude; Inf or NaN where there is one.
  float (*absmax)(Dtype, const void* values, size_t n);
  // False where a weight is NaN or Inf.
  bool (*quantize)(const Quantization&);
  // False where a code has more bits than the format.
  bool (*dequantize)(const Dequantization&);
  // Adds squares to sums[2 * kEnergySums]: of `reference` to the first half, of what `values` miss of it to the second.
  void (*energies)(Dtype, const void* reference, const float* values, double* sums, size_t n);
  // False where a weight is NaN or Inf.
  bool (*search_scales)(const ScaleSearch&);
  void (*assign_codes)(const Assignment&);
  // False where the matrix is not positive definite.
  bool (*factor)(const Factorization&);
  void (*feed_back)(const Feedback&);
  void (*descend)(const Descent&);
};

extern const Kernels kScalar;
extern const Kernels kAvx2;
extern const Kernels kAvx512;

// The tables that this CPU runs, the best first.
std::span<const Kernels* const> available();

// The table called `name`; null: what HALVE_ISA names, else the best. Throws std::invalid_argument.
const Kernels& select(const char* name);

}  // namespace halve
