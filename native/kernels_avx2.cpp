#define HALVE_KERNELS kAvx2
#define HALVE_ISA_NAME "avx2"
#include "kernels.inc"
