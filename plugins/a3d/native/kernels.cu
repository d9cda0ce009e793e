// The kernels for GPUs: the bodies of nms.h and channel_loops.h, spread over threads. Nothing of
// libtorch is seen here, so that nvcc has seconds to do.
#include "channel_loops.h"
#include "kernels.h"

#include <cuda_runtime.h>

#include <type_traits>

namespace {

__global__ void compare(NmsImage t) {
  int64_t box = blockIdx.y, word = blockIdx.x * blockDim.x + threadIdx.x;
  for (; box < t.count; box += gridDim.y) {
    if (word < t.words) nms_compare(t, box, word);
  }
}

// One block walks an image: in each word one thread decides, then all mark what falls.
__global__ void walk(NmsImage t) {
  __shared__ uint64_t own[kWord], stay;
  __shared__ int64_t kept;
  if (threadIdx.x == 0) kept = 0;
  for (int64_t word = 0; word < t.words; word++) {
    int64_t box = word * kWord + threadIdx.x;
    if (threadIdx.x < kWord && box < t.count) own[threadIdx.x] = t.mask[box * t.words + word];
    __syncthreads();
    if (threadIdx.x == 0) stay = nms_keep(t, word, own, kept);
    __syncthreads();
    if (kept == t.limit) return;
    for (int64_t other = word + 1 + threadIdx.x; other < t.words; other += blockDim.x) nms_remove(t, word, stay, other);
    __syncthreads();
  }
}

// Threads of a block: neighbours along x have neighbouring channels, as they lie in memory.
constexpr unsigned kChannels = 32, kRows = 4;

__device__ inline int64_t own_channel() { return int64_t(blockIdx.y) * kChannels + threadIdx.x; }
__device__ inline int64_t own_row() { return int64_t(blockIdx.x) * kRows + threadIdx.y; }

template <int D, bool kAffine, typename T> __global__ void mix(MixJob<T> job) {
  int64_t t = own_row(), c = own_channel();
  if (t < job.tiles() && c < job.channels) mix_channel<D, kAffine, T>(job.at(t), c);
}

template <int D, GradKind kKind, typename T> __global__ void mix_grad(MixGradJob<T> job) {
  int64_t worker = own_row(), c = own_channel();
  if (worker >= job.workers || c >= job.channels) return;
  for (int64_t t = job.first(worker); t < job.first(worker + 1); t++) mix_grad_channel<D, kKind, T>(job.at(worker, t), c);
}

template <typename T> __global__ void moments(const T *x, int64_t stride, int64_t rows, int64_t channels, int64_t block_rows, float *out) {
  int64_t block = own_row(), c = own_channel(), first = block * block_rows;
  if (first >= rows || c >= channels) return;
  moments_channel(x + first * stride, stride, rows - first < block_rows ? rows - first : block_rows, x, out + 2 * block * channels,
                  out + (2 * block + 1) * channels, c);
}

constexpr int64_t kCombined = 16; // rows of a thread

template <typename G, typename T>
__global__ void combine(const G *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows, int64_t channels,
                        const float *a, const float *b, const float *e) {
  int64_t first = own_row() * kCombined, c = own_channel();
  if (first >= rows || c >= channels) return;
  combine_channel(g + first * g_stride, g_stride, x + first * x_stride, x_stride, out + first * out_stride, out_stride,
                  rows - first < kCombined ? rows - first : kCombined, a, b, e, c);
}

// spread launches a kernel with a thread for each row and channel.
template <typename K, typename... A> int spread(K kernel, int64_t rows, int64_t channels, void *stream, A... arguments) {
  dim3 grid(static_cast<unsigned>((rows + kRows - 1) / kRows), static_cast<unsigned>((channels + kChannels - 1) / kChannels));
  kernel<<<grid, dim3(kChannels, kRows), 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
}

// for_slices calls f with the number of slices as a constant.
template <typename F> int for_slices(int64_t slices, F f) {
  switch (slices) {
  case 1: return f(std::integral_constant<int, 1>{});
  case 3: return f(std::integral_constant<int, 3>{});
  case 5: return f(std::integral_constant<int, 5>{});
  case 7: return f(std::integral_constant<int, 7>{});
  case 9: return f(std::integral_constant<int, 9>{});
  }
  return cudaErrorInvalidValue;
}

} // namespace

template <typename T> int CUDALoops<T>::mix(const MixJob<T> &job, bool affine, void *stream) {
  return for_slices(job.slices, [&](auto d) {
    return affine ? spread(::mix<d, true, T>, job.tiles(), job.channels, stream, job) : spread(::mix<d, false, T>, job.tiles(), job.channels, stream, job);
  });
}

template <typename T> int CUDALoops<T>::mix_grad(const MixGradJob<T> &job, GradKind kind, void *stream) {
  return for_slices(job.slices, [&](auto d) {
    auto kernel = kind == kPlainGrad ? ::mix_grad<d, kPlainGrad, T> : kind == kAffineGrad ? ::mix_grad<d, kAffineGrad, T> : ::mix_grad<d, kAccumulatingGrad, T>;
    return spread(kernel, job.workers, job.channels, stream, job);
  });
}

template <typename T>
int CUDALoops<T>::moments(const T *x, int64_t stride, int64_t rows, int64_t channels, int64_t block_rows, float *out, void *stream) {
  return spread(::moments<T>, (rows + block_rows - 1) / block_rows, channels, stream, x, stride, rows, channels, block_rows, out);
}

template <typename T>
template <typename G>
int CUDALoops<T>::combine(const G *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows, int64_t channels,
                          const float *a, const float *b, const float *e, void *stream) {
  return spread(::combine<G, T>, (rows + kCombined - 1) / kCombined, channels, stream, g, g_stride, x, x_stride, out, out_stride, rows, channels, a, b, e);
}

template struct CUDALoops<float>;
template struct CUDALoops<BFloat>;
#define A3D_COMBINE(G, T) \
  template int CUDALoops<T>::combine<G>(const G *, int64_t, const T *, int64_t, T *, int64_t, int64_t, int64_t, const float *, const float *, const float *, void *)
A3D_COMBINE(float, float);
A3D_COMBINE(float, BFloat);
A3D_COMBINE(BFloat, BFloat);

const char *a3d_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

int a3d_cuda_nms(const NmsImage &t, void *stream) {
  auto on = static_cast<cudaStream_t>(stream);
  constexpr unsigned threads = 64;
  dim3 grid(static_cast<unsigned>((t.words + threads - 1) / threads), static_cast<unsigned>(t.count < 65535 ? t.count : 65535));
  compare<<<grid, threads, 0, on>>>(t);
  walk<<<1, 256, 0, on>>>(t);
  return cudaGetLastError();
}
