// A packed weight as Python holds it: its arrays live as long as it does.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "border.h"
#include "packed.h"

namespace halve {

template <class T, size_t kCount>
T named(const std::pair<const char*, T> (&table)[kCount], const std::string& name, const char* what) {
  for (const auto& [known, value] : table)
    if (name == known) return value;
  throw nb::value_error((std::string("unknown ") + what + " '" + name + "'").c_str());
}

constexpr std::pair<const char*, Mode> kModes[] = {
    {"exact", Mode::Exact}, {"bf16", Mode::Bf16}, {"int8", Mode::Int8}};

struct PackedWeight {
  Weight weight;
  Array<const uint8_t> lines;
  Array<const uint8_t> scales;
  std::optional<Array<const float>> offsets;
  std::optional<Array<const float>> table;
};

}  // namespace halve
