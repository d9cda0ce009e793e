#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma")
#define A3D_VECTOR 16
#include "vector_loops.h"

const Loops avx512_loops = kLoops;
#endif
