// The inner loops of slice mixing and what surrounds it. They see memory alone, nothing of
// libtorch, and are compiled once per instruction set (loops_*.cpp).
#ifndef ALIGNEDFUSION_A3D_LOOPS_H
#define ALIGNEDFUSION_A3D_LOOPS_H
#include <cstdint>

constexpr int64_t kWidth = 16; // channels come in multiples of it
constexpr int64_t kTile = 64;  // pixels of a tile, at most

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

#if defined(__x86_64__)
extern const Loops avx512_loops, avx2_loops;
#else
extern const Loops plain_loops;
#endif

#endif
