#define HALVE_KERNELS kPackedScalar
#define HALVE_ISA_NAME "scalar"
#include "packed_kernels.inc"
