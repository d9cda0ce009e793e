// Loops of the slice mixing; included once per instruction set, inside a namespace.
// A tile is a run of pixels of one volume. Slice d of pixel i starts at
// x + d*x_slice + i*x_pixel; channels lie side by side.

typedef float vec __attribute__((vector_size(64), aligned(4)));
constexpr int64_t kWidth = 16;

inline vec load(const float *p) { return *reinterpret_cast<const vec *>(p); }
inline void store(float *p, vec v) { *reinterpret_cast<vec *>(p) = v; }

inline vec affine_relu(vec x, vec scale, vec shift) {
  vec v = x * scale + shift;
  return v > 0 ? v : vec{};
}

// y[k] = sum_d f(x[d]) * p[d][k], f the identity or relu(x*scale + shift).
template <int D, bool kAffine>
void mix_tile(const float *x, int64_t x_slice, int64_t x_pixel, float *y, int64_t y_slice, int64_t y_pixel,
              const float *p, const float *scale, const float *shift, int64_t pixels, int64_t channels) {
  for (int64_t c = 0; c + kWidth <= channels; c += kWidth) {
    vec a{}, b{};
    if (kAffine) { a = load(scale + c); b = load(shift + c); }
    for (int64_t i = 0; i < pixels; i++) {
      const float *xi = x + i * x_pixel + c;
      float *yi = y + i * y_pixel + c;
      vec in[D];
#pragma GCC unroll 16
      for (int d = 0; d < D; d++) {
        in[d] = load(xi + d * x_slice);
        if (kAffine) in[d] = affine_relu(in[d], a, b);
      }
#pragma GCC unroll 16
      for (int k = 0; k < D; k++) {
        vec sum = in[0] * load(p + k * channels + c);
#pragma GCC unroll 16
        for (int d = 1; d < D; d++) sum += in[d] * load(p + (d * D + k) * channels + c);
        store(yi + k * y_slice, sum);
      }
    }
  }
  for (int64_t c = channels / kWidth * kWidth; c < channels; c++) {
    for (int64_t i = 0; i < pixels; i++) {
      float in[D];
      for (int d = 0; d < D; d++) {
        in[d] = x[d * x_slice + i * x_pixel + c];
        if (kAffine) in[d] = std::max(in[d] * scale[c] + shift[c], 0.0f);
      }
      for (int k = 0; k < D; k++) {
        float sum = 0;
        for (int d = 0; d < D; d++) sum += in[d] * p[(d * D + k) * channels + c];
        y[k * y_slice + i * y_pixel + c] = sum;
      }
    }
  }
}

// dp[d][k] += sum over pixels of x[d] * dy[k].
template <int D>
void mix_grad_tile(const float *x, int64_t x_slice, int64_t x_pixel, const float *dy, int64_t y_slice, int64_t y_pixel,
                   float *dp, int64_t pixels, int64_t channels) {
  for (int64_t c = 0; c + kWidth <= channels; c += kWidth) {
    for (int d = 0; d < D; d++) {
      vec sum[D];
#pragma GCC unroll 16
      for (int k = 0; k < D; k++) sum[k] = load(dp + (d * D + k) * channels + c);
      for (int64_t i = 0; i < pixels; i++) {
        vec in = load(x + d * x_slice + i * x_pixel + c);
#pragma GCC unroll 16
        for (int k = 0; k < D; k++) sum[k] += in * load(dy + k * y_slice + i * y_pixel + c);
      }
#pragma GCC unroll 16
      for (int k = 0; k < D; k++) store(dp + (d * D + k) * channels + c, sum[k]);
    }
  }
  for (int64_t c = channels / kWidth * kWidth; c < channels; c++) {
    for (int d = 0; d < D; d++) {
      for (int k = 0; k < D; k++) {
        float sum = 0;
        for (int64_t i = 0; i < pixels; i++) sum += x[d * x_slice + i * x_pixel + c] * dy[k * y_slice + i * y_pixel + c];
        dp[(d * D + k) * channels + c] += sum;
      }
    }
  }
}
