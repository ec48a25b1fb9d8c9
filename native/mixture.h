// Experts of a layer: a router chooses some of them for each token, and their outputs are added by its weights.
// halve.runtime.mlp.Experts is the reference.
#pragma once
#include <cstddef>
#include <vector>

#include "activations.h"
#include "grouped.h"
#include "linear.h"
#include "packed.h"
#include "threads.h"

namespace halve {

struct Expert {
  Linear gate, up, down;  // where gate and up are in turns, the rows of both are in `gate`
};

struct Experts {
  Linear router;
  std::vector<Expert> each;
};

// What the experts of all layers have in common.
struct Routing {
  size_t experts;   // 0: no layer has any
  size_t chosen;    // of them, for a token
  bool normalized;  // weights are softmax over the chosen, not over all
  size_t intermediate;
  bool in_turns;  // row 2i of a gate's weight is gate i, row 2i + 1 up i
};

class Mixture {
 public:
  Mixture(const PackedKernels& kernels, Mode mode, const Routing& routing, size_t hidden, Gate gate, float limit)
      : kernels_(kernels),
        mode_(mode),
        routing_(routing),
        hidden_(hidden),
        gate_(gate),
        limit_(limit),
        gate_up_(kernels),
        down_(kernels) {}

  // Outputs y [count][hidden] for x [count][hidden]. The weights of experts that no token has chosen are not read.
  void run(Pool& pool, const Experts& experts, const float* x, size_t count, ActivationBuffer& buffer, float* y);

 private:
  void make_room(size_t count);
  void choose(size_t token);
  void sort(size_t count);
  void activate(size_t pair);
  void mix(size_t token, float* y) const;

  const PackedKernels& kernels_;
  const Mode mode_;
  const Routing routing_;
  const size_t hidden_;
  const Gate gate_;
  const float limit_;

  size_t room_ = 0;             // tokens that the buffers below hold
  std::vector<float> scores_;   // [token][expert]
  std::vector<size_t> chosen_;  // [token][choice]: an expert
  std::vector<float> weights_;  // [token][choice]
  // Pairs of a token and an expert lie in the order of experts, so that each expert's tokens are one after another.
  std::vector<size_t> first_;   // of each expert's pairs, and where the last one's end
  std::vector<size_t> places_;  // [token][choice]: a pair
  std::vector<size_t> tokens_;  // of each pair
  std::vector<size_t> pairs_;   // 0, 1, 2 ...
  std::vector<float> turns_, gates_, up_, outputs_;  // of each pair
  Grouped gate_up_, down_;
};

}  // namespace halve
