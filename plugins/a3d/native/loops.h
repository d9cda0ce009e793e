// The inner loops of slice mixing and what surrounds it. They see memory alone, nothing of
// libtorch, and are compiled once per instruction set (loops_*.cpp).
#ifndef ALIGNEDFUSION_A3D_LOOPS_H
#define ALIGNEDFUSION_A3D_LOOPS_H
#include <cstdint>

#if defined(__CUDACC__)
#define A3D_BOTH __host__ __device__
#else
#define A3D_BOTH
#endif

constexpr int64_t kWidth = 16; // channels come in multiples of it
constexpr int64_t kTile = 64;  // pixels of a tile, at most

// On a GPU: pixels of a tile, and about how many threads take sums of a whole map.
constexpr int64_t kThreadTile = 16, kThreads = 1 << 17;

// The loops are compiled for 1, 3, 5, 7 and 9 slices; other maps take the general form.
constexpr int kSliceCounts = 5;
inline bool compiled_for(int64_t slices) { return slices >= 1 && slices < 2 * kSliceCounts && slices % 2 == 1; }

struct BFloat {
  uint16_t upper;
};

template <typename T> struct MixTile {
  const T *x;
  int64_t x_slice, x_pixel;
  T *y;
  int64_t y_slice, y_pixel;
  const float *p, *scale, *shift;
  int64_t pixels, channels;
};

template <typename T> struct MixGradTile {
  const T *x;
  int64_t x_slice, x_pixel;
  const T *gy;
  int64_t y_slice, y_pixel;
  T *gx;      // written, or
  float *sum; // added to
  int64_t gx_slice, gx_pixel;
  const float *p, *scale, *shift, *mean, *invstd;
  float *dp, *s1, *s2; // added to; dp may be null
  int64_t pixels, channels;
};

// MixJob and MixGradJob are whole maps, cut into tiles. Maps are rows of channels with a stride;
// a volume's slices follow one another.
template <typename T> struct MixJob {
  const T *x;
  int64_t x_stride;
  T *y;
  int64_t y_stride;
  const float *p;
  int64_t p_volume; // 0: one matrix for all volumes
  const float *scale, *shift;
  int64_t volumes, slices, pixels, channels, tile;

  A3D_BOTH int64_t per_volume() const { return (pixels + tile - 1) / tile; }
  A3D_BOTH int64_t tiles() const { return volumes * per_volume(); }
  A3D_BOTH MixTile<T> at(int64_t t) const {
    int64_t n = t / per_volume(), first = t % per_volume() * tile, row = n * slices * pixels + first;
    return {x + row * x_stride, pixels * x_stride, x_stride, y + row * y_stride, pixels * y_stride, y_stride, p + n * p_volume, scale, shift,
            pixels - first < tile ? pixels - first : tile, channels};
  }
};

template <typename T> struct MixGradJob {
  const T *x;
  int64_t x_stride;
  const T *gy;
  int64_t y_stride;
  T *gx;      // as in MixGradTile
  float *sum;
  int64_t gx_stride;
  const float *p;
  int64_t copies; // matrices in p
  const float *scale, *shift, *mean, *invstd;
  float *dp, *sums; // of each worker: [copies, slices, slices, channels] or null, [2, channels]
  int64_t volumes, slices, pixels, channels, tile, workers;

  A3D_BOTH int64_t per_volume() const { return (pixels + tile - 1) / tile; }
  // first is where a worker's tiles begin, and the ones of the worker before it end.
  A3D_BOTH int64_t first(int64_t worker) const { return volumes * per_volume() * worker / workers; }
  A3D_BOTH MixGradTile<T> at(int64_t worker, int64_t t) const {
    int64_t n = t / per_volume(), from = t % per_volume() * tile, row = n * slices * pixels + from, m = copies == 1 ? 0 : n;
    int64_t matrix = slices * slices * channels;
    MixGradTile<T> out{};
    out.x = x + row * x_stride, out.x_slice = pixels * x_stride, out.x_pixel = x_stride;
    out.gy = gy + row * y_stride, out.y_slice = pixels * y_stride, out.y_pixel = y_stride;
    if (sum) {
      out.sum = sum + row * gx_stride;
    } else {
      out.gx = gx + row * gx_stride;
    }
    out.gx_slice = pixels * gx_stride, out.gx_pixel = gx_stride;
    out.p = p + m * matrix;
    out.scale = scale, out.shift = shift, out.mean = mean, out.invstd = invstd;
    out.s1 = sums + worker * 2 * channels, out.s2 = out.s1 + channels;
    if (dp) out.dp = dp + (worker * copies + m) * matrix;
    out.pixels = pixels - from < tile ? pixels - from : tile, out.channels = channels;
    return out;
  }
};

enum GradKind { kPlainGrad, kAffineGrad, kAccumulatingGrad, kGradKinds };

// What each does is said in vector_loops.h.
template <typename T> struct LoopsFor {
  void (*mix[kSliceCounts][2])(const MixTile<T> &); // by slices / 2; affine or not
  void (*mix_grad[kSliceCounts][kGradKinds])(const MixGradTile<T> &);
  void (*moments)(const T *x, int64_t stride, int64_t rows, int64_t channels, const T *centre, float *sum, float *square);
  void (*combine)(const T *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows,
                  int64_t channels, const float *a, const float *b, const float *e);
  void (*combine_float)(const float *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows,
                        int64_t channels, const float *a, const float *b, const float *e);
};

struct Loops {
  LoopsFor<float> single;
  LoopsFor<BFloat> brain;
};

extern const Loops channel_loops; // those of channel_loops.h
#if defined(__x86_64__)
extern const Loops avx512_loops, avx2_loops;
#else
extern const Loops plain_loops;
#endif

#endif
