#include "packed.h"

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>

namespace halve {
namespace {

struct Available {
  std::array<const PackedKernels*, 4> tables{};
  size_t count = 0;

  Available() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512vbmi")) {
      if (__builtin_cpu_supports("avx512bf16")) tables[count++] = &kPackedAvx512Bf16;
      tables[count++] = &kPackedAvx512;
    }
    if (__builtin_cpu_supports("x86-64-v3")) tables[count++] = &kPackedAvx2;
#endif
    tables[count++] = &kPackedScalar;
  }
};

// How far up the list of instruction sets a table is.
int level(const char* isa) {
  return std::strncmp(isa, "avx512", 6) == 0 ? 2 : std::strcmp(isa, "avx2") == 0 ? 1 : 0;
}

}  // namespace

std::span<const PackedKernels* const> available_packed() {
  static const Available found;
  return {found.tables.data(), found.count};
}

const PackedKernels& select_packed(const char* name) {
  const int highest = name == nullptr ? level(select(nullptr).isa) : 2;
  for (const PackedKernels* table : available_packed())
    if (name == nullptr ? level(table->isa) <= highest : std::strcmp(table->isa, name) == 0) return *table;
  throw std::invalid_argument(std::string("this machine has no packed kernels called '") + name + "'");
}

}  // namespace halve
