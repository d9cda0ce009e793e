// The threads' loops one channel after another: how tests run them without a GPU. Who is not
// in a hurry need not be fast, and compiles in a quarter of the time.
#pragma GCC optimize("O1")
#include "channel_loops.h"

namespace {

template <int D, bool kAffine, typename T> void mix_tile(const MixTile<T> &t) {
  for (int64_t c = 0; c < t.channels; c++) mix_channel<D, kAffine, T>(t, c);
}

template <int D, GradKind kKind, typename T> void mix_grad_tile(const MixGradTile<T> &t) {
  for (int64_t c = 0; c < t.channels; c++) mix_grad_channel<D, kKind, T>(t, c);
}

template <typename T> void moments(const T *x, int64_t stride, int64_t rows, int64_t channels, const T *centre, float *sum, float *square) {
  for (int64_t c = 0; c < channels; c++) moments_channel(x, stride, rows, centre, sum, square, c);
}

template <typename G, typename T>
void combine(const G *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows, int64_t channels, const float *a,
             const float *b, const float *e) {
  for (int64_t c = 0; c < channels; c++) combine_channel(g, g_stride, x, x_stride, out, out_stride, rows, a, b, e, c);
}

#include "make_loops.h"

} // namespace

const Loops channel_loops = kLoops;
