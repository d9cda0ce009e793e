// The loops of loops.h. Each source that includes this names an instruction set, the number
// of floats in its vectors (A3D_VECTOR), and gets them as kLoops.
// A tile is a run of pixels of one volume: slice d of pixel i starts at
// x + d*x_slice + i*x_pixel; channels lie side by side.
#include "loops.h"

namespace {

typedef float vec __attribute__((vector_size(4 * A3D_VECTOR), aligned(4)));
typedef uint32_t bits __attribute__((vector_size(4 * A3D_VECTOR), aligned(4)));
typedef uint16_t half_bits __attribute__((vector_size(2 * A3D_VECTOR), aligned(2)));

inline vec load(const float *p) { return *reinterpret_cast<const vec *>(p); }
inline void store(float *p, vec v) { *reinterpret_cast<vec *>(p) = v; }

// bfloat16 is the upper half of a float; stores round to nearest, ties to even.
inline vec load(const BFloat *p) {
  bits wide = __builtin_convertvector(*reinterpret_cast<const half_bits *>(p), bits) << 16;
  return reinterpret_cast<vec>(wide);
}
inline void store(BFloat *p, vec v) {
  bits b = reinterpret_cast<bits>(v);
  bits rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  bits nan = reinterpret_cast<bits>(v != v);
  rounded = (rounded & ~nan) | (nan & 0x7fc0);
  *reinterpret_cast<half_bits *>(p) = __builtin_convertvector(rounded, half_bits);
}

inline vec positive(vec v) { return v > 0 ? v : vec{}; }

// y[k] = sum_d f(x[d]) p[d][k], f the identity or relu(x*scale + shift).
template <int D, bool kAffine, typename T>
void mix_tile(const MixTile<T> &t) {
  for (int64_t c = 0; c < t.channels; c += A3D_VECTOR) {
    vec a{}, b{};
    if (kAffine) { a = load(t.scale + c); b = load(t.shift + c); }
    for (int64_t i = 0; i < t.pixels; i++) {
      const T *x = t.x + i * t.x_pixel + c;
      T *y = t.y + i * t.y_pixel + c;
      vec in[D];
#pragma GCC unroll 16
      for (int d = 0; d < D; d++) {
        in[d] = load(x + d * t.x_slice);
        if (kAffine) in[d] = positive(in[d] * a + b);
      }
#pragma GCC unroll 16
      for (int k = 0; k < D; k++) {
        vec sum = in[0] * load(t.p + k * t.channels + c);
#pragma GCC unroll 16
        for (int d = 1; d < D; d++) sum += in[d] * load(t.p + (d * D + k) * t.channels + c);
        store(y + k * t.y_slice, sum);
      }
    }
  }
}

// dp[d][k] += z[d] gy[k] over a tile's pixels; kept holds z and behind it gy.
template <int D>
__attribute__((noinline)) void add_products(const vec (*kept)[2 * D], int64_t pixels, float *dp, int64_t channels) {
  for (int d = 0; d < D; d++) {
    vec sum[D];
#pragma GCC unroll 16
    for (int k = 0; k < D; k++) sum[k] = load(dp + (d * D + k) * channels);
    for (int64_t i = 0; i < pixels; i++) {
      vec z = kept[i][d];
#pragma GCC unroll 16
      for (int k = 0; k < D; k++) sum[k] += z * kept[i][D + k];
    }
#pragma GCC unroll 16
    for (int k = 0; k < D; k++) store(dp + (d * D + k) * channels, sum[k]);
  }
}

// The gradient of mix_tile. With z = f(x) and gz[d] = sum_k gy[k] p[d][k], zero where
// relu is:
//   gx[d]     = gz[d], or sum[d] += scale * gz[d] when accumulating
//   dp[d][k] += z[d] gy[k]                       (where asked for)
//   s1 += gz, s2 += gz (x - mean) invstd         (all but kPlainGrad)
template <int D, GradKind kKind, typename T>
void mix_grad_tile(const MixGradTile<T> &t) {
  constexpr bool kAffine = kKind != kPlainGrad;
  vec kept[kTile][2 * D];
  for (int64_t c = 0; c < t.channels; c += A3D_VECTOR) {
    vec a{}, b{}, mean{}, invstd{}, s1{}, s2{};
    if (kAffine) {
      a = load(t.scale + c); b = load(t.shift + c);
      mean = load(t.mean + c); invstd = load(t.invstd + c);
      s1 = load(t.s1 + c); s2 = load(t.s2 + c);
    }
    for (int64_t i = 0; i < t.pixels; i++) {
      const T *x = t.x + i * t.x_pixel + c, *gy = t.gy + i * t.y_pixel + c;
      vec g[D];
#pragma GCC unroll 16
      for (int k = 0; k < D; k++) kept[i][D + k] = g[k] = load(gy + k * t.y_slice);
#pragma GCC unroll 16
      for (int d = 0; d < D; d++) {
        vec sum = g[0] * load(t.p + d * D * t.channels + c);
#pragma GCC unroll 16
        for (int k = 1; k < D; k++) sum += g[k] * load(t.p + (d * D + k) * t.channels + c);
        vec in = load(x + d * t.x_slice);
        if (kAffine) {
          vec z = in * a + b;
          sum = z > 0 ? sum : vec{};
          s1 += sum;
          s2 += sum * ((in - mean) * invstd);
          kept[i][d] = positive(z);
        } else {
          kept[i][d] = in;
        }
        int64_t at = i * t.gx_pixel + c + d * t.gx_slice;
        if constexpr (kKind == kAccumulatingGrad) {
          store(t.sum + at, load(t.sum + at) + a * sum);
        } else {
          store(t.gx + at, sum);
        }
      }
    }
    if (kAffine) { store(t.s1 + c, s1); store(t.s2 + c, s2); }
    if (t.dp) add_products<D>(kept, t.pixels, t.dp + c, t.channels);
  }
}

// Sums of x - centre and of its square over rows, per channel.
template <typename T>
void moments(const T *x, int64_t stride, int64_t rows, int64_t channels, const T *centre, float *sum, float *square) {
  for (int64_t c = 0; c < channels; c += A3D_VECTOR) {
    vec k = load(centre + c), s{}, q{};
    for (int64_t i = 0; i < rows; i++) {
      vec v = load(x + i * stride + c) - k;
      s += v;
      q += v * v;
    }
    store(sum + c, s);
    store(square + c, q);
  }
}

// out = a g + b + x e per channel, for rows of x, g and out with their own strides.
template <typename G, typename T>
void combine(const G *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows,
             int64_t channels, const float *a, const float *b, const float *e) {
  for (int64_t c = 0; c < channels; c += A3D_VECTOR) {
    vec va = load(a + c), vb = load(b + c), ve = load(e + c);
    for (int64_t i = 0; i < rows; i++) {
      store(out + i * out_stride + c, load(g + i * g_stride + c) * va + vb + load(x + i * x_stride + c) * ve);
    }
  }
}

#include "make_loops.h"

} // namespace
