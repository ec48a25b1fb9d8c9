// A row of halve.formats as the kernels read it. Kernels know kinds of formats, never names: a new row needs no C++.
#pragma once
#include <cstdint>

namespace halve {

enum class Kind : uint8_t { Float, Int, Codebook };

struct Codec {
  Kind kind;
  int bits;
  float min;
  float max;

  // Float: value = 2^(exponent field - bias) * 1.mantissa; see halve.formats.table.Float for the meaning of each.
  int mantissa;
  int min_exponent;
  int nan_code;  // -1: none
  float smallest;
  bool is_signed;
  bool has_zero;
  bool has_negative_zero;

  // Codebook: a value's code is the number of thresholds that it reaches.
  int thresholds_used;
  float thresholds[255];

  float values[256];  // by code, up to 8 bits
};

}  // namespace halve
