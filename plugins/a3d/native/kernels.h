// What kernels.cu holds. Each puts its work on a stream and returns CUDA's error code.
#ifndef ALIGNEDFUSION_A3D_KERNELS_H
#define ALIGNEDFUSION_A3D_KERNELS_H
#include "nms.h"

const char *a3d_cuda_error(int code);
int a3d_cuda_nms(const NmsImage &image, void *stream);

// The loops of a dense block; what each does is said in vector_loops.h.
template <typename T> struct CUDALoops {
  static int mix(const MixJob<T> &job, bool affine, void *stream);
  static int mix_grad(const MixGradJob<T> &job, GradKind kind, void *stream);
  // Of every block of block_rows: sum and square of a block lie in out, [blocks, 2, channels].
  static int moments(const T *x, int64_t stride, int64_t rows, int64_t channels, int64_t block_rows, float *out, void *stream);
  template <typename G>
  static int combine(const G *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows, int64_t channels,
                     const float *a, const float *b, const float *e, void *stream);
};
#endif
