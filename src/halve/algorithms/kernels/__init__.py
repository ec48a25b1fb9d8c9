"""The arithmetic that algorithms share: numpy references, and native kernels with the same bits."""
