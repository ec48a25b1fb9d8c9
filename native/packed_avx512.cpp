#define HALVE_KERNELS kPackedAvx512
#define HALVE_ISA_NAME "avx512"
#include "packed_kernels.inc"
