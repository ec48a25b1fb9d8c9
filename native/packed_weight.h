// A packed weight as Python holds it: its arrays live as long as it does.
#pragma once
#include <optional>

#include "border.h"
#include "packed.h"

namespace halve {

struct PackedWeight {
  Weight weight;
  Array<const uint8_t> lines;
  Array<const uint8_t> scales;
  std::optional<Array<const float>> offsets;
  std::optional<Array<const float>> table;
};

}  // namespace halve
