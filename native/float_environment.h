// Round to nearest, subnormals kept, whatever the calling thread has set (libraries built with -ffast-math switch
// subnormals off for the whole process): the bits of a result must not depend on who else is loaded.
#pragma once
#include <cfenv>

namespace halve {

class FloatEnvironment {
 public:
  FloatEnvironment() {
    std::fegetenv(&callers_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FloatEnvironment() { std::fesetenv(&callers_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  std::fenv_t callers_{};
};

}  // namespace halve
