#define HALVE_KERNELS kPackedAvx512Bf16
#define HALVE_ISA_NAME "avx512_bf16"
#include "packed_kernels.inc"
