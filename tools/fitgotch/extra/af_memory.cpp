// Memory that libtorch frees stays with the process. By default glibc maps every large
// tensor anew and gives it back at once, and then each step pays for its pages again:
// more than the arithmetic of a 1x1 convolution on it. Settings from the environment
// (MALLOC_MMAP_MAX_ and so on) still win.
#include <cstdlib>
#if defined(__GLIBC__)
#include <climits>
#include <malloc.h>

static const bool keeps_memory = [] {
  if (!std::getenv("MALLOC_MMAP_MAX_")) mallopt(M_MMAP_MAX, 0);
  if (!std::getenv("MALLOC_TRIM_THRESHOLD_")) mallopt(M_TRIM_THRESHOLD, INT_MAX);
  if (!std::getenv("MALLOC_ARENA_MAX")) mallopt(M_ARENA_MAX, 1);
  return true;
}();
#endif
