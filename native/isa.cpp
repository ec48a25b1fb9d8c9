#include "isa.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace halve {
namespace {

constexpr const char* kKnown = "avx512, avx2, scalar";

struct Available {
  std::array<const Kernels*, 3> tables{};
  size_t count = 0;

  Available() {
#if defined(__x86_64__)
    // The psABI levels are what CMakeLists.txt compiles for; the test covers the operating system's part too.
    if (__builtin_cpu_supports("x86-64-v4")) tables[count++] = &kAvx512;
    if (__builtin_cpu_supports("x86-64-v3")) tables[count++] = &kAvx2;
#endif
    tables[count++] = &kScalar;
  }
};

}  // namespace

std::span<const Kernels* const> available() {
  static const Available found;
  return {found.tables.data(), found.count};
}

const Kernels& select(const char* name) {
  const char* origin = "";
  if (name == nullptr) {
    name = std::getenv("HALVE_ISA");
    origin = "HALVE_ISA: ";
  }
  if (name == nullptr || *name == '\0') return *available().front();
  std::string runs;
  for (const Kernels* table : available()) {
    if (std::strcmp(table->isa, name) == 0) return *table;
    runs += (runs.empty() ? "" : ", ") + std::string(table->isa);
  }
  for (const char* known : {"avx512", "avx2", "scalar"}) {
    if (std::strcmp(known, name) == 0)
      throw std::invalid_argument(std::string(origin) + "this machine cannot run the " + name + " kernels (it runs: " +
                                  runs + ")");
  }
  throw std::invalid_argument(std::string(origin) + "unknown instruction set '" + name + "' (known: " + kKnown + ")");
}

}  // namespace halve
