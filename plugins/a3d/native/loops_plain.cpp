#if !defined(__x86_64__)
#define A3D_VECTOR 4
#include "vector_loops.h"

const Loops plain_loops = kLoops;
#endif
