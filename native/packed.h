// Products of packed weights with vectors of activations.
//
// A packed weight has its rows in groups of sixteen, interleaved: a line of 64 bytes holds 32 bits of each of the
// sixteen rows, so that a sum over columns runs down one lane, without horizontal sums, on every instruction set. By element:
//
//   4 bits   8 columns a line; byte b of a lane: column b in the low nibble, column 4 + b in the high one
//   8 bits   4 columns a line, in order; 16 bits: 2 columns; 32 bits: 1
//
// Scales lie apart, [group][block][16]. Rows and columns are padded with codes and scales of zero.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "isa.h"

namespace halve {

constexpr size_t kGroupRows = 16;
constexpr size_t kLineBytes = 64;
constexpr size_t kUnit = 32;  // columns; int8 activations have one scale for as many

enum class Element : uint8_t { Fp4, Int4, Int8, Fp8, Coded, Fp16, Bf16, Fp32 };
enum class Scale : uint8_t { Ue4m3, E8m0, Fp16, Bf16, Fp32 };
enum class Mode : uint8_t { Exact, Bf16, Int8 };  // of the activations

constexpr size_t bits(Element e) {
  return e <= Element::Int4 ? 4 : e <= Element::Coded ? 8 : e <= Element::Bf16 ? 16 : 32;
}
constexpr size_t bytes(Scale s) { return s <= Scale::E8m0 ? 1 : s <= Scale::Bf16 ? 2 : 4; }
constexpr size_t columns_a_line(Element e) { return 32 / bits(e); }

// Columns, rounded up to whole units and whole blocks.
constexpr size_t padded_columns(size_t columns, size_t block) {
  const size_t whole = block > kUnit ? block : kUnit;
  return (columns + whole - 1) / whole * whole;
}

struct Weight {
  Element element;
  Scale scale;
  size_t rows;
  size_t columns;
  size_t block;  // columns under one scale
  const uint8_t* lines;
  const uint8_t* scales;
  const float* offsets;  // [group][block][16], added to every value of a block; null: none
  const float* table;    // values of Element::Coded by code, 256
  float factor;          // of the whole tensor

  size_t groups() const { return (rows + kGroupRows - 1) / kGroupRows; }
  size_t padded() const { return padded_columns(columns, block); }
  size_t blocks() const { return padded() / block; }
  size_t group_bytes() const { return padded() / columns_a_line(element) * kLineBytes; }
};

// The forms that one vector of activations takes for the kernels; each is there if somebody needs it.
struct Activations {
  size_t padded;
  float* values;          // fp32, or rounded to bf16
  float* lifted;          // values * 2^60
  uint16_t* pairs;        // bf16
  uint16_t* mixed_pairs;  // bf16, each eight columns in the order 0 2 4 6 1 3 5 7
  int8_t* bytes;
  float* byte_scales;         // [padded / 32]
  float* lifted_byte_scales;  // times 2^60
  int32_t* byte_sums;         // [padded / 16], of `bytes`
  int32_t* middles[3];        // byte_sums * -12, * -8, * -128
  float* sums;                // [padded / 32], of `values`
};

enum Form : uint8_t { kValues = 1, kLifted = 2, kPairs = 4, kMixedPairs = 8, kBytes = 16, kSums = 32 };

constexpr size_t kTogether = 4;  // vectors for which a line of the weight is decoded once

struct Product {
  // Rows of groups first ... last - 1 of the product, into y[16 * first] and on; not beyond the weight's last row.
  void (*run)(const Weight&, const Activations&, float* y, size_t first, size_t last);
  // The same for kTogether vectors: each gets the bits that it gets alone.
  void (*run_together)(const Weight&, const Activations* const* x, float* const* y, size_t first, size_t last);
  uint8_t form;  // of the activations
};

// Many vectors of activations, in one form: [count][padded].
struct Batch {
  size_t count;
  size_t padded;
  float* values;    // fp32, or rounded to bf16
  uint16_t* pairs;  // bf16
};

constexpr size_t kBatchWork = 2 * kGroupRows;  // numbers of scratch memory for each vector of a batch

struct BatchProduct {
  // As `Product::run`; the product with the next vector is `stride` numbers further. Weights are multiplied in bf16
  // where the activations are.
  void (*run)(const Weight&, const Batch&, float* y, size_t stride, size_t first, size_t last, float* work);
  uint8_t form;
};

enum class Gate : uint8_t { Silu, GeluTanh, SwigluOai };

enum class CacheNumber : uint8_t { Fp16, Fp8 };  // of keys and values; FP8 is E4M3 (OCP OFP8), saturating
constexpr size_t bytes(CacheNumber n) { return n == CacheNumber::Fp16 ? 2 : 1; }

// What one query sees: positions first ... last - 1 of the keys and values of one head (native/transformer.inc).
struct Attention {
  CacheNumber number;
  const uint8_t* keys;
  const uint8_t* values;
  float value_scale;    // of the values; that of the keys is in the queries
  size_t head_dim;  // a multiple of 16
  size_t first;
  size_t last;
  const float* sinks;  // of each head the score of a position whose value is nothing; null: none
  float cap;           // scores s become cap * tanh(s / cap); 0: they stay

  // Numbers of scratch memory.
  size_t scores() const { return 8 * ((last + kGroupRows - 1) / kGroupRows * kGroupRows); }
};

struct PackedKernels {
  const char* isa;
  // run == nullptr: there is no such kernel.
  Product (*product)(Element, Scale, Mode);
  // Fills the forms named in `forms` from x[columns]. All but the bytes are rounded to bf16 unless `mode` is Exact.
  void (*prepare)(const float* x, size_t columns, Mode mode, uint8_t forms, const Activations&);
  BatchProduct (*batch_product)(Element, Scale, Mode);
  // Fills the forms of vector `vector` of x[count][columns].
  void (*prepare_batch)(const float* x, size_t columns, Mode mode, uint8_t forms, const Batch&, size_t vector);
  // Interleaves unpacked codes [rows, columns] of `bits` bits each into lines; `flip` is xored to every code.
  void (*interleave)(const void* codes, size_t rows, size_t columns, size_t padded, size_t bits, uint32_t flip,
                     uint8_t* lines);
  // A sum that nobody needs: how fast memory can be read. `size` is a multiple of 256.
  uint64_t (*read)(const uint8_t* from, size_t size);
  // The values of one row, without those of padding.
  void (*row)(const Weight&, size_t row, float* values);

  void (*normalize)(const float* x, const float* weight, size_t n, float eps, float* y);
  void (*gate)(Gate, float limit, float* gates, const float* up, size_t n);
  void (*cap)(float* x, size_t n, float cap);
  void (*rotate)(float* head, size_t head_dim, const float* cosines, const float* sines, size_t half, float factor);
  // Key and value come divided by their scales.
  void (*remember)(CacheNumber number, const float* key, const float* value, size_t head_dim, size_t position,
                   uint8_t* keys, uint8_t* values);
  // `count` heads, whose queries come scaled, with the same keys and values.
  void (*attend)(const Attention&, const float* queries, size_t count, float* scores, float* outputs);

  // The kernel for a mode, or for the next more exact one: Int8 falls back to Bf16, Bf16 to Exact, with activations
  // rounded to bf16 all the same. run == nullptr where element and scale do not go together.
  Product best_product(Element element, Scale scale, Mode mode) const {
    for (int m = static_cast<int>(mode); m > 0; --m)
      if (const Product found = product(element, scale, static_cast<Mode>(m)); found.run != nullptr) return found;
    return product(element, scale, Mode::Exact);
  }
};

extern const PackedKernels kPackedScalar;
extern const PackedKernels kPackedAvx2;
extern const PackedKernels kPackedAvx512;      // with VNNI and VBMI
extern const PackedKernels kPackedAvx512Bf16;  // and BF16

// The tables that this CPU runs, the best first.
std::span<const PackedKernels* const> available_packed();

// The table called `name`; null: the best one within HALVE_ISA (avx512: either of them). Throws std::invalid_argument.
const PackedKernels& select_packed(const char* name);

}  // namespace halve
