// The loops of vector_loops.h for one channel: what a thread of a GPU does.
#ifndef ALIGNEDFUSION_A3D_CHANNEL_LOOPS_H
#define ALIGNEDFUSION_A3D_CHANNEL_LOOPS_H
#include "loops.h"

#include <cstring>

A3D_BOTH inline float get(const float *p) { return *p; }
A3D_BOTH inline void put(float *p, float v) { *p = v; }

// bfloat16 is the upper half of a float; stores round to nearest, ties to even.
A3D_BOTH inline float get(const BFloat *p) {
  uint32_t wide = static_cast<uint32_t>(p->upper) << 16;
  float v;
  memcpy(&v, &wide, sizeof v);
  return v;
}
A3D_BOTH inline void put(BFloat *p, float v) {
  uint32_t b;
  memcpy(&b, &v, sizeof b);
  p->upper = v != v ? 0x7fc0 : static_cast<uint16_t>((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

// y[k] = sum_d f(x[d]) p[d][k], f the identity or relu(x*scale + shift).
template <int D, bool kAffine, typename T> A3D_BOTH void mix_channel(const MixTile<T> &t, int64_t c) {
  float p[D * D], a = kAffine ? t.scale[c] : 0, b = kAffine ? t.shift[c] : 0;
  for (int i = 0; i < D * D; i++) p[i] = t.p[i * t.channels + c];
  for (int64_t i = 0; i < t.pixels; i++) {
    const T *x = t.x + i * t.x_pixel + c;
    T *y = t.y + i * t.y_pixel + c;
    float in[D];
    for (int d = 0; d < D; d++) {
      in[d] = get(x + d * t.x_slice);
      if (kAffine) in[d] = in[d] * a + b > 0 ? in[d] * a + b : 0;
    }
    for (int k = 0; k < D; k++) {
      float sum = in[0] * p[k];
      for (int d = 1; d < D; d++) sum += in[d] * p[d * D + k];
      put(y + k * t.y_slice, sum);
    }
  }
}

// The gradient of mix_channel, as mix_grad_tile says.
template <int D, GradKind kKind, typename T> A3D_BOTH void mix_grad_channel(const MixGradTile<T> &t, int64_t c) {
  constexpr bool kAffine = kKind != kPlainGrad;
  float p[D * D], dp[D * D] = {}, a = 0, b = 0, mean = 0, invstd = 0, s1 = 0, s2 = 0;
  for (int i = 0; i < D * D; i++) p[i] = t.p[i * t.channels + c];
  if (kAffine) a = t.scale[c], b = t.shift[c], mean = t.mean[c], invstd = t.invstd[c];
  for (int64_t i = 0; i < t.pixels; i++) {
    const T *x = t.x + i * t.x_pixel + c, *gy = t.gy + i * t.y_pixel + c;
    float g[D];
    for (int k = 0; k < D; k++) g[k] = get(gy + k * t.y_slice);
    for (int d = 0; d < D; d++) {
      float sum = g[0] * p[d * D], in = get(x + d * t.x_slice), z = in;
      for (int k = 1; k < D; k++) sum += g[k] * p[d * D + k];
      if (kAffine) {
        z = in * a + b;
        if (!(z > 0)) sum = 0, z = 0;
        s1 += sum;
        s2 += sum * ((in - mean) * invstd);
      }
      for (int k = 0; k < D; k++) dp[d * D + k] += z * g[k];
      int64_t at = i * t.gx_pixel + c + d * t.gx_slice;
      if (kKind == kAccumulatingGrad) {
        t.sum[at] += a * sum;
      } else {
        put(t.gx + at, sum);
      }
    }
  }
  if (kAffine) t.s1[c] += s1, t.s2[c] += s2;
  if (t.dp) {
    for (int i = 0; i < D * D; i++) t.dp[i * t.channels + c] += dp[i];
  }
}

template <typename T> A3D_BOTH void moments_channel(const T *x, int64_t stride, int64_t rows, const T *centre, float *sum, float *square, int64_t c) {
  float k = get(centre + c), s = 0, q = 0;
  for (int64_t i = 0; i < rows; i++) {
    float v = get(x + i * stride + c) - k;
    s += v;
    q += v * v;
  }
  sum[c] = s;
  square[c] = q;
}

template <typename G, typename T>
A3D_BOTH void combine_channel(const G *g, int64_t g_stride, const T *x, int64_t x_stride, T *out, int64_t out_stride, int64_t rows, const float *a,
                              const float *b, const float *e, int64_t c) {
  for (int64_t i = 0; i < rows; i++) put(out + i * out_stride + c, get(g + i * g_stride + c) * a[c] + b[c] + get(x + i * x_stride + c) * e[c]);
}
#endif
