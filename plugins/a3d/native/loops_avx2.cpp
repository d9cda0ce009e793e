#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define A3D_VECTOR 8
#include "vector_loops.h"

const Loops avx2_loops = kLoops;
#endif
