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
};

extern const Kernels kScalar;
extern const Kernels kAvx2;
extern const Kernels kAvx512;

// The tables that this CPU runs, the best first.
std::span<const Kernels* const> available();

// The table called `name`; null: what HALVE_ISA names, else the best. Throws std::invalid_argument.
const Kernels& select(const char* name);

}  // namespace halve
