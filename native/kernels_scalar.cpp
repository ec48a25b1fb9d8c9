#define HALVE_KERNELS kScalar
#define HALVE_ISA_NAME "scalar"
#include "kernels.inc"
