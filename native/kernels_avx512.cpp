#define HALVE_KERNELS kAvx512
#define HALVE_ISA_NAME "avx512"
#include "kernels.inc"
