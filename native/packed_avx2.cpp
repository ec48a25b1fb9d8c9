#define HALVE_KERNELS kPackedAvx2
#define HALVE_ISA_NAME "avx2"
#include "packed_kernels.inc"
