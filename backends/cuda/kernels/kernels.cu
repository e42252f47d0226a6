// All kernels in one unit, as they are compiled: one file an operation. Each keeps its helpers in a namespace of its own.
#include "common.cuh"
#include "ceilings.cu"
