// Runs the kernels on a file of cases with the answers of the Python reference (tests/native/cases.py writes it) and
// needs no Python: this is how a cross-compiled build is tried under an emulator. Prints one line a case with a hash of
// the output, so that builds can be compared with each other too. HALVE_ISA chooses the kernels.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa.h"

namespace halve {
namespace {

uint64_t fnv1a(const void* data, size_t bytes, uint64_t hash) {
  const auto* byte = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ byte[i]) * 0x100000001b3;
  return hash;
}

class SelfTest {
 public:
  SelfTest(const char* path, const Kernels& kernels) : in_(path, std::ios::binary), kernels_(kernels) {
    if (!in_) throw std::runtime_error(std::string("cannot open ") + path);
  }

  // Returns whether there was a case and every case equals the reference.
  bool run() {
    size_t cases = 0;
    size_t wrong = 0;
    for (std::string operation; in_ >> operation;) {
      if (operation == "codec") {
        read_codec();
        continue;
      }
      label_ = word();
      hash_ = 0xcbf29ce484222325;
      equal_ = true;
      if (operation == "encode")
        encode();
      else if (operation == "decode")
        decode();
      else if (operation == "pack")
        pack();
      else if (operation == "absmax")
        absmax();
      else if (operation == "quantize")
        quantize();
      else
        throw std::runtime_error("unknown operation " + operation);
      ++cases;
      wrong += equal_ ? 0 : 1;
      std::printf("%s %s %016llx %s\n", operation.c_str(), label_.c_str(), static_cast<unsigned long long>(hash_),
                  equal_ ? "equal" : "DIFFERS");
    }
    std::fprintf(stderr, "%s: %zu cases, %zu differ from the reference\n", kernels_.isa, cases, wrong);
    return cases > 0 && wrong == 0;
  }

 private:
  std::string word() {
    std::string text;
    if (!(in_ >> text)) throw std::runtime_error("the file of cases is cut off");
    return text;
  }

  long long number() { return std::stoll(word()); }
  size_t count() { return static_cast<size_t>(number()); }
  const Codec* codec() { return &codecs_.at(word()); }
  void end_of_header() { in_.ignore(std::numeric_limits<std::streamsize>::max(), '\n'); }

  template <class T>
  std::vector<T> blob(size_t n) {
    std::vector<T> data(n);
    if (!in_.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(n * sizeof(T))))
      throw std::runtime_error("the file of cases is cut off");
    return data;
  }

  // Hashes what a kernel made, and compares it with the reference's answer, which is next in the file.
  template <class T>
  void compare(const std::vector<T>& made) {
    if (made.empty()) return;
    const std::vector<T> expected = blob<T>(made.size());
    hash_ = fnv1a(made.data(), made.size() * sizeof(T), hash_);
    equal_ &= std::memcmp(made.data(), expected.data(), made.size() * sizeof(T)) == 0;
  }

  void read_codec() {
    Codec c{};
    const std::string name = word();
    c.kind = static_cast<Kind>(number());
    c.bits = static_cast<int>(number());
    c.mantissa = static_cast<int>(number());
    c.min_exponent = static_cast<int>(number());
    c.nan_code = static_cast<int>(number());
    c.is_signed = number() != 0;
    c.has_zero = number() != 0;
    c.has_negative_zero = number() != 0;
    c.thresholds_used = static_cast<int>(number());
    end_of_header();
    const std::vector<float> limits = blob<float>(3);
    c.min = limits[0];
    c.max = limits[1];
    c.smallest = limits[2];
    const std::vector<float> thresholds = blob<float>(std::size(c.thresholds));
    std::memcpy(c.thresholds, thresholds.data(), sizeof c.thresholds);
    const std::vector<float> values = blob<float>(std::size(c.values));
    std::memcpy(c.values, values.data(), sizeof c.values);
    codecs_[name] = c;
  }

  void encode() {
    const Codec* c = codec();
    const size_t n = count();
    end_of_header();
    const std::vector<float> values = blob<float>(n);
    std::vector<uint8_t> codes(n);
    equal_ &= kernels_.encode(*c, values.data(), codes.data(), n) == -1;
    compare(codes);
  }

  void decode() {
    const Codec* c = codec();
    const size_t n = count();
    end_of_header();
    const std::vector<uint8_t> codes = blob<uint8_t>(n);
    std::vector<float> values(n);
    equal_ &= kernels_.decode(*c, codes.data(), values.data(), n);
    compare(values);
  }

  void pack() {
    const auto bits = static_cast<size_t>(number());
    const size_t n = count();
    end_of_header();
    const std::vector<uint8_t> codes = blob<uint8_t>(n);
    std::vector<uint8_t> packed(n * bits / 8);
    std::vector<uint8_t> unpacked(n);
    (bits == 4 ? kernels_.pack4 : kernels_.pack6)(codes.data(), packed.data(), n);
    (bits == 4 ? kernels_.unpack4 : kernels_.unpack6)(packed.data(), unpacked.data(), n);
    compare(packed);
    equal_ &= unpacked == codes;
  }

  void absmax() {
    const auto dtype = static_cast<Dtype>(number());
    const size_t n = count();
    end_of_header();
    const std::vector<uint8_t> values = blob<uint8_t>(n * (dtype == Dtype::F32 ? 4 : 2));
    compare(std::vector<float>{kernels_.absmax(dtype, values.data(), n)});
  }

  void quantize() {
    Quantization q{};
    q.element = codec();
    q.scale = codec();
    q.grid.rows = count();
    q.grid.columns = count();
    q.grid.height = count();
    q.grid.width = count();
    q.rule = static_cast<Rule>(number());
    q.dtype = static_cast<Dtype>(number());
    const size_t tiles = count();
    q.has_tensor_scale = number() != 0;
    const bool has_zeros = number() != 0;
    end_of_header();
    q.tensor_scale = blob<float>(1)[0];
    const size_t n = q.grid.rows * q.grid.columns;
    const std::vector<uint8_t> weights = blob<uint8_t>(n * (q.dtype == Dtype::F32 ? 4 : 2));
    std::vector<uint8_t> codes(n);
    std::vector<float> scales(tiles);
    std::vector<uint8_t> zeros(has_zeros ? tiles : 0);
    q.weights = weights.data();
    q.codes = codes.data();
    q.scales = scales.data();
    q.zeros = has_zeros ? zeros.data() : nullptr;
    equal_ &= kernels_.quantize(q);
    compare(codes);
    compare(scales);
    compare(zeros);

    std::vector<float> values(n);
    equal_ &= kernels_.dequantize({q.element, q.grid, q.has_tensor_scale, q.tensor_scale, codes.data(), scales.data(),
                                   q.zeros, nullptr, values.data()});
    compare(values);
  }

  std::ifstream in_;
  const Kernels& kernels_;
  std::map<std::string, Codec> codecs_;
  std::string label_;
  uint64_t hash_ = 0;
  bool equal_ = true;
};

}  // namespace
}  // namespace halve

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: native_selftest CASES\n";
    return 2;
  }
  try {
    return halve::SelfTest(argv[1], halve::select(nullptr)).run() ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "native_selftest: " << error.what() << '\n';
    return 2;
  }
}
