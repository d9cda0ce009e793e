// Slice mixing of the A3D operator, and dense blocks made with it, on channels-last maps.
//
// A volume's slices lie side by side in the batch dimension: x is [N*D, C, H, W] in
// channels-last memory, possibly the first C channels of a wider buffer. With
// weights p [M, D, D, C] (source slice, target slice, channel; M is 1 or N)
//   y[n, k, c, h, w] = sum_d f(x[n, d, c, h, w]) p[m, d, k, c].
#include "af_native.h"
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t kWidth = 16; // channels handled together
constexpr int64_t kTile = 64;  // pixels of a tile

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
  float *dp, *s1, *s2;
  int64_t pixels, channels;
};

} // namespace

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma")
namespace wide {
#include "af_slice_mix.h"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace medium {
#include "af_slice_mix.h"
}
#pragma GCC pop_options
#else
namespace plain {
#include "af_slice_mix.h"
}
#endif

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

#if defined(__x86_64__)
// The processor's vectors decide between two versions of every loop.
bool has_wide() {
  static const bool yes = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return yes;
}
bool has_loops() {
  static const bool yes = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return yes;
}
#define AF_PICK(...) (has_wide() ? wide::__VA_ARGS__ : medium::__VA_ARGS__)
#else
bool has_loops() { return true; }
#define AF_PICK(...) (plain::__VA_ARGS__)
#endif

// The loops are compiled for these numbers of slices; others take the general form.
constexpr int kMaxSlices = 9;
inline bool compiled_for(int64_t slices) { return slices >= 1 && slices <= kMaxSlices && slices % 2 == 1; }

template <typename T> using MixLoop = void (*)(const MixTile<T> &);
template <typename T> using MixGradLoop = void (*)(const MixGradTile<T> &);

template <int D, typename T> MixLoop<T> mix_loop(int64_t slices, bool affine) {
  if constexpr (D > kMaxSlices) {
    return nullptr;
  } else {
    if (slices != D) return mix_loop<D + 2, T>(slices, affine);
    return affine ? AF_PICK(mix_tile<D, true, T>) : AF_PICK(mix_tile<D, false, T>);
  }
}

enum GradKind { kPlainGrad, kAffineGrad, kAccumulatingGrad };

template <int D, typename T> MixGradLoop<T> mix_grad_loop(int64_t slices, GradKind kind, bool weights) {
  if constexpr (D > kMaxSlices) {
    return nullptr;
  } else {
    if (slices != D) return mix_grad_loop<D + 2, T>(slices, kind, weights);
    switch (kind) {
    case kPlainGrad:
      return weights ? AF_PICK(mix_grad_tile<D, false, false, true, T>) : AF_PICK(mix_grad_tile<D, false, false, false, T>);
    case kAffineGrad:
      return weights ? AF_PICK(mix_grad_tile<D, true, false, true, T>) : AF_PICK(mix_grad_tile<D, true, false, false, T>);
    default:
      return weights ? AF_PICK(mix_grad_tile<D, true, true, true, T>) : AF_PICK(mix_grad_tile<D, true, true, false, T>);
    }
  }
}

// pixels_last reports channels side by side and rows without gaps.
bool pixels_last(const Tensor &x) {
  return x.dim() == 4 && (x.stride(1) == 1 || x.size(1) == 1) && (x.size(2) == 1 || x.stride(2) == x.size(3) * x.stride(3)) &&
         (x.size(0) == 1 || x.stride(0) == x.size(2) * x.size(3) * x.stride(3)) && (x.size(3) == 1 || x.stride(3) >= x.size(1));
}

// fast reports whether the loops can run on maps of this kind.
bool fast(const Tensor &x, int64_t slices) {
  return x.device().is_cpu() && (x.scalar_type() == torch::kFloat || x.scalar_type() == torch::kBFloat16) && compiled_for(slices) &&
         x.size(1) % kWidth == 0 && has_loops();
}

Tensor empty_map(const Tensor &like, int64_t channels) {
  return torch::empty({like.size(0), like.size(2), like.size(3), channels}, like.options()).permute({0, 3, 1, 2});
}

Tensor channels_last(const Tensor &x) {
  if (pixels_last(x)) return x;
  return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
}

// with_type calls f with a value of the element type the loops use for t.
template <typename F> auto with_type(const Tensor &t, F f) {
  return t.scalar_type() == torch::kBFloat16 ? f(BFloat{}) : f(float{});
}

// Map is a channels-last tensor as the loops see it: rows of channels.
template <typename T> struct Map {
  T *data;
  int64_t rows, channels, stride;
  explicit Map(const Tensor &t)
      : data(static_cast<T *>(t.data_ptr())), rows(t.size(0) * t.size(2) * t.size(3)), channels(t.size(1)),
        stride(rows == 1 ? t.size(1) : t.size(3) > 1 ? t.stride(3) : t.size(2) > 1 ? t.stride(2) : t.stride(0)) {}
};

// Norm is a batch normalisation written as scale and shift.
struct Norm {
  Tensor scale, shift, mean, invstd;
};

template <typename T> Tensor mix_loops_of(const Tensor &x, const Tensor &p, const Norm *norm, int64_t slices) {
  int64_t volumes = x.size(0) / slices, channels = x.size(1), pixels = x.size(2) * x.size(3);
  Tensor y = empty_map(x, channels);
  auto loop = mix_loop<1, T>(slices, norm != nullptr);
  Map<T> in(x), out(y);
  const float *weights = p.data_ptr<float>();
  int64_t p_volume = p.size(0) == 1 ? 0 : p.stride(0), tiles = (pixels + kTile - 1) / kTile;
  at::parallel_for(0, volumes * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      int64_t n = t / tiles, first = t % tiles * kTile, row = n * slices * pixels + first;
      loop({in.data + row * in.stride, pixels * in.stride, in.stride, out.data + row * out.stride, pixels * out.stride, out.stride,
            weights + n * p_volume, norm ? norm->scale.data_ptr<float>() : nullptr, norm ? norm->shift.data_ptr<float>() : nullptr,
            std::min(kTile, pixels - first), channels});
    }
  });
  return y;
}

Tensor mix_loops(const Tensor &x, const Tensor &p, const Norm *norm, int64_t slices) {
  return with_type(x, [&](auto type) { return mix_loops_of<decltype(type)>(x, p, norm, slices); });
}

struct MixGrad {
  Tensor dp, s1, s2; // undefined where not asked for
};

// mix_grad_loops writes d l / d x to gx, which may be gy itself, or, with a norm and
// accumulate, adds it to gx, which is float then. Sums are taken per thread and then in
// order: they depend on the number of threads only.
template <typename T>
MixGrad mix_grad_loops_of(const Tensor &x, const Tensor &p, const Norm *norm, const Tensor &gy, const Tensor &gx, bool accumulate,
                          bool weights, int64_t slices) {
  int64_t volumes = x.size(0) / slices, channels = x.size(1), pixels = x.size(2) * x.size(3);
  auto loop = mix_grad_loop<1, T>(slices, !norm ? kPlainGrad : accumulate ? kAccumulatingGrad : kAffineGrad, weights);
  int64_t copies = p.size(0), tiles = (pixels + kTile - 1) / kTile, all = volumes * tiles;
  int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), all));
  int64_t matrix = slices * slices * channels;
  Tensor dp = torch::zeros({threads, weights ? copies * matrix : 0}, p.options()), sums = torch::zeros({threads, 2, norm ? channels : 0}, p.options());
  Map<T> in(x), g(gy), out(gx);
  float *sum = accumulate ? static_cast<float *>(gx.data_ptr()) : nullptr;
  const float *ps = p.data_ptr<float>();
  float *dps = dp.data_ptr<float>(), *ss = sums.data_ptr<float>();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; thread++) {
      for (int64_t t = all * thread / threads; t < all * (thread + 1) / threads; t++) {
        int64_t n = t / tiles, first = t % tiles * kTile, row = n * slices * pixels + first, m = copies == 1 ? 0 : n;
        MixGradTile<T> tile{};
        tile.x = in.data + row * in.stride, tile.x_slice = pixels * in.stride, tile.x_pixel = in.stride;
        tile.gy = g.data + row * g.stride, tile.y_slice = pixels * g.stride, tile.y_pixel = g.stride;
        if (accumulate) {
          tile.sum = sum + row * out.stride;
        } else {
          tile.gx = out.data + row * out.stride;
        }
        tile.gx_slice = pixels * out.stride, tile.gx_pixel = out.stride;
        tile.p = ps + m * matrix;
        if (norm) {
          tile.scale = norm->scale.data_ptr<float>(), tile.shift = norm->shift.data_ptr<float>();
          tile.mean = norm->mean.data_ptr<float>(), tile.invstd = norm->invstd.data_ptr<float>();
          tile.s1 = ss + thread * 2 * channels, tile.s2 = tile.s1 + channels;
        }
        if (weights) tile.dp = dps + (thread * copies + m) * matrix;
        tile.pixels = std::min(kTile, pixels - first), tile.channels = channels;
        loop(tile);
      }
    }
  });
  MixGrad result;
  if (weights) result.dp = dp.sum(0).view_as(p);
  if (norm) {
    Tensor total = sums.sum(0);
    result.s1 = total[0], result.s2 = total[1];
  }
  return result;
}

MixGrad mix_grad_loops(const Tensor &x, const Tensor &p, const Norm *norm, const Tensor &gy, const Tensor &gx, bool accumulate,
                       bool weights, int64_t slices) {
  return with_type(x, [&](auto type) { return mix_grad_loops_of<decltype(type)>(x, p, norm, gy, gx, accumulate, weights, slices); });
}

// The general form, for other devices, dtypes and slice counts; differentiable.
Tensor mix_general(const Tensor &x, const Tensor &p, int64_t slices) {
  auto n = x.size(0) / slices, c = x.size(1), h = x.size(2), w = x.size(3);
  Tensor rows = x.permute({0, 2, 3, 1}).reshape({n, slices, h * w, c});
  Tensor weights = (p.size(0) == 1 ? p.expand({n, slices, slices, c}) : p).to(x.scalar_type());
  Tensor y = torch::einsum("ndqc,ndkc->nkqc", {rows, weights});
  return y.reshape({n * slices, h, w, c}).permute({0, 3, 1, 2});
}

struct SliceMix : torch::autograd::Function<SliceMix> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &p, int64_t slices) {
    ctx->save_for_backward({x, p});
    ctx->saved_data["slices"] = slices;
    return mix_loops(x, p, nullptr, slices);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor gx = empty_map(saved[0], saved[0].size(1));
    bool weights = ctx->needs_input_grad(1);
    auto sums = mix_grad_loops(saved[0], saved[1], nullptr, channels_last(grads[0]), gx, false, weights, ctx->saved_data["slices"].toInt());
    return {gx, sums.dp, Tensor()};
  }
};

void check_mix(const Tensor &x, const Tensor &p, int64_t slices) {
  TORCH_CHECK(slices >= 1 && x.dim() == 4 && x.size(0) % slices == 0, "slice mixing of ", slices, " slices: x is ", x.sizes(),
              ", want [N*", slices, ", C, H, W]");
  TORCH_CHECK(p.dim() == 4 && p.size(1) == slices && p.size(2) == slices && p.size(3) == x.size(1) &&
                  (p.size(0) == 1 || p.size(0) * slices == x.size(0)),
              "slice mixing: weights are ", p.sizes(), ", want [1 or N, ", slices, ", ", slices, ", ", x.size(1), "]");
}

// slice_mix: x, p; slices. Differentiable in both.
std::vector<Tensor> slice_mix(const AfCall &call) {
  const Tensor &x = call.tensor(0), &p = call.tensor(1);
  int64_t slices = call.integer(0);
  check_mix(x, p, slices);
  if (!fast(x, slices)) return {mix_general(x, p, slices)};
  return {SliceMix::apply(channels_last(x), p.contiguous(), slices)};
}

// Dense blocks --------------------------------------------------------------------

constexpr double kEps = 1e-5, kMomentum = 0.1; // as torchvision's DenseNet

// Where a layer's tensors stand in the argument list.
enum { kW1Norm, kB1Norm, kMean1, kVar1, kP1, kConv1, kW2Norm, kB2Norm, kMean2, kVar2, kP2, kConv2, kPerLayer };

struct Moments {
  Tensor mean, variance; // biased
};

// batch_moments of every channel. Values are taken relative to the first row, so that
// a large mean costs no precision.
template <typename T> Moments batch_moments_of(const Tensor &x) {
  Map<T> in(x);
  constexpr int64_t kRows = 256;
  int64_t blocks = (in.rows + kRows - 1) / kRows;
  Tensor partial = torch::empty({blocks, 2, in.channels}, x.options().dtype(torch::kFloat));
  float *out = partial.data_ptr<float>();
  auto loop = AF_PICK(moments<T>);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      int64_t first = b * kRows;
      loop(in.data + first * in.stride, in.stride, std::min(kRows, in.rows - first), in.channels, in.data,
           out + b * 2 * in.channels, out + (b * 2 + 1) * in.channels);
    }
  });
  Tensor sums = partial.sum(0, false, torch::kDouble) / static_cast<double>(in.rows);
  Tensor centre = torch::from_blob(in.data, {in.channels}, x.options()).to(torch::kDouble);
  return {(sums[0] + centre).to(torch::kFloat), (sums[1] - sums[0] * sums[0]).clamp_min(0).to(torch::kFloat)};
}

Moments batch_moments(const Tensor &x) {
  return with_type(x, [&](auto type) { return batch_moments_of<decltype(type)>(x); });
}

Norm make_norm(const Tensor &weight, const Tensor &bias, const Tensor &mean, const Tensor &variance) {
  Norm n;
  n.mean = mean.contiguous();
  n.invstd = (variance + kEps).rsqrt();
  n.scale = weight * n.invstd;
  n.shift = bias - n.mean * n.scale;
  return n;
}

void update_running(const Tensor &mean, const Tensor &variance, const Moments &batch, int64_t rows) {
  double unbias = rows > 1 ? static_cast<double>(rows) / static_cast<double>(rows - 1) : 1.0;
  mean.mul_(1 - kMomentum).add_(batch.mean, kMomentum);
  variance.mul_(1 - kMomentum).add_(batch.variance, kMomentum * unbias);
}

// Convolutions run in the activations' type; parameters and their gradients are float.
Tensor convolve(const Tensor &x, const Tensor &weight) {
  return channels_last(at::conv2d(x, weight.to(x.scalar_type()), {}, 1, weight.size(2) / 2));
}

std::tuple<Tensor, Tensor> convolve_grad(const Tensor &g, const Tensor &x, const Tensor &weight, bool weights) {
  int64_t pad = weight.size(2) / 2;
  auto [gx, gw, unused] = at::convolution_backward(g, x, weight.to(x.scalar_type()), c10::nullopt, {1, 1}, {pad, pad}, {1, 1}, false, {0, 0}, 1,
                                                   {true, weights, false});
  return {channels_last(gx), weights ? gw.to(weight.scalar_type()) : gw};
}

// combine_rows writes a g + b + e x per channel to out. g is float or of x's type.
void combine_rows(const Tensor &g, const Tensor &x, const Tensor &out, const Tensor &a, const Tensor &b, const Tensor &e) {
  Tensor ac = a.contiguous(), bc = b.contiguous(), ec = e.contiguous();
  const float *as = ac.data_ptr<float>(), *bs = bc.data_ptr<float>(), *es = ec.data_ptr<float>();
  with_type(g, [&](auto g_type) {
    with_type(x, [&](auto x_type) {
      using G = decltype(g_type);
      using T = decltype(x_type);
      Map<G> mg(g);
      Map<T> mx(x), mo(out);
      auto loop = AF_PICK(combine<G, T>);
      at::parallel_for(0, mg.rows, 1024, [&](int64_t begin, int64_t end) {
        loop(mg.data + begin * mg.stride, mg.stride, mx.data + begin * mx.stride, mx.stride, mo.data + begin * mo.stride, mo.stride,
             end - begin, mg.channels, as, bs, es);
      });
      return 0;
    });
    return 0;
  });
}

// One dense layer in inference or training: appends its output to the buffer.
struct DenseLayer {
  const Tensor *t; // the layer's kPerLayer tensors
  int64_t slices;

  // bottleneck is conv1's output for the first channels of the buffer.
  Tensor bottleneck(const Tensor &in, const Norm &one) const { return convolve(mix_loops(in, t[kP1], &one, slices), t[kConv1]); }
  Tensor out(const Tensor &mid, const Norm &two) const { return convolve(mix_loops(mid, t[kP2], &two, slices), t[kConv2]); }
};

std::vector<Tensor> without_graph(at::TensorList tensors) {
  std::vector<Tensor> out;
  for (const auto &t : tensors) out.push_back(t.defined() ? t.detach().contiguous() : t);
  return out;
}

struct DenseBlock : torch::autograd::Function<DenseBlock> {
  // Returns x with the outputs of all layers behind it. Of the activations only the
  // buffer itself and, unless lean, the layers' bottlenecks are kept.
  //
  // A channel's batch statistics are the same for every layer that reads it: they are
  // taken once, when the channel is written.
  static Tensor forward(AutogradContext *ctx, const Tensor &x, at::TensorList params, int64_t slices, int64_t growth, bool lean) {
    int64_t layers = static_cast<int64_t>(params.size()) / kPerLayer, first = x.size(1), rows = x.size(0) * x.size(2) * x.size(3);
    auto all = without_graph(params);
    Tensor buffer = empty_map(x, first + layers * growth);
    buffer.narrow(1, 0, first).copy_(x);
    Moments moments = batch_moments(buffer.narrow(1, 0, first));
    variable_list kept;
    for (int64_t l = 0; l < layers; l++) {
      DenseLayer layer{&all[l * kPerLayer], slices};
      const Tensor *t = layer.t;
      int64_t width = first + l * growth;
      Norm one = make_norm(t[kW1Norm], t[kB1Norm], moments.mean, moments.variance);
      update_running(t[kMean1], t[kVar1], moments, rows);
      Tensor mid = layer.bottleneck(buffer.narrow(1, 0, width), one);
      Moments inner = batch_moments(mid);
      Norm two = make_norm(t[kW2Norm], t[kB2Norm], inner.mean, inner.variance);
      update_running(t[kMean2], t[kVar2], inner, rows);
      Tensor fresh = layer.out(mid, two);
      buffer.narrow(1, width, growth).copy_(fresh);
      Moments added = batch_moments(buffer.narrow(1, width, growth));
      moments = {torch::cat({moments.mean, added.mean}), torch::cat({moments.variance, added.variance})};
      kept.push_back(lean ? Tensor() : mid);
      kept.push_back(inner.mean);
      kept.push_back(inner.variance);
    }
    kept.push_back(moments.mean);
    kept.push_back(moments.variance);
    kept.push_back(buffer);
    for (size_t i = 0; i < params.size(); i++) {
      int index = static_cast<int>(i % kPerLayer);
      bool running = index == kMean1 || index == kVar1 || index == kMean2 || index == kVar2;
      kept.push_back(running ? Tensor() : params[i]); // the next forward changes running statistics in place
    }
    ctx->save_for_backward(kept);
    ctx->saved_data["slices"] = slices;
    ctx->saved_data["growth"] = growth;
    return buffer;
  }

  // Batch normalisation takes from a channel's gradient a constant and a multiple of its
  // normalised value. Both are the same for all cells and linear in what the layers
  // contribute, so they are summed over the layers and taken off once, when the
  // channel's gradient is complete: rest collects sum(gz), slope sum(gz xhat), scaled.
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    at::NoGradGuard guard;
    auto saved = ctx->get_saved_variables();
    int64_t slices = ctx->saved_data["slices"].toInt(), growth = ctx->saved_data["growth"].toInt();
    // saved: 3 per layer, mean, variance, buffer, kPerLayer per layer
    int64_t layers = (static_cast<int64_t>(saved.size()) - 3) / (3 + kPerLayer);
    Tensor mean = saved[3 * layers], variance = saved[3 * layers + 1], buffer = saved[3 * layers + 2];
    auto all = without_graph(at::TensorList(saved).slice(3 * layers + 3));
    int64_t first = buffer.size(1) - layers * growth;
    double rows = static_cast<double>(buffer.size(0) * buffer.size(2) * buffer.size(3));
    Tensor invstd = (variance + kEps).rsqrt();
    // The gradient collects contributions of many layers: float whatever the activations are.
    Tensor g = torch::empty({buffer.size(0), buffer.size(2), buffer.size(3), buffer.size(1)}, mean.options()).permute({0, 3, 1, 2});
    g.copy_(grads[0]);
    Tensor rest = torch::zeros_like(mean), slope = torch::zeros_like(mean);
    auto finished = [&](int64_t from, int64_t count) {
      Tensor x = buffer.narrow(1, from, count), out = empty_map(buffer, count);
      Tensor e = -(slope.narrow(0, from, count) * invstd.narrow(0, from, count)) / rows;
      Tensor b = -rest.narrow(0, from, count) / rows - e * mean.narrow(0, from, count);
      combine_rows(g.narrow(1, from, count), x, out, torch::ones_like(b), b, e);
      return out;
    };
    variable_list result(1 + layers * kPerLayer + 3);
    for (int64_t l = layers - 1; l >= 0; l--) {
      DenseLayer layer{&all[l * kPerLayer], slices};
      const Tensor *t = layer.t;
      int64_t width = first + l * growth;
      auto wants = [&](int index) { return ctx->needs_input_grad(1 + l * kPerLayer + index); };
      auto give = [&](int index, const Tensor &value) {
        if (wants(index)) result[1 + l * kPerLayer + index] = value;
      };
      Tensor in = buffer.narrow(1, 0, width), mid = saved[3 * l];
      Norm one = make_norm(t[kW1Norm], t[kB1Norm], mean.narrow(0, 0, width), variance.narrow(0, 0, width));
      Norm two = make_norm(t[kW2Norm], t[kB2Norm], saved[3 * l + 1], saved[3 * l + 2]);
      Tensor mixed = mix_loops(in, t[kP1], &one, slices);
      if (!mid.defined()) mid = convolve(mixed, t[kConv1]);

      auto [gy2, gw2] = convolve_grad(finished(width, growth), mix_loops(mid, t[kP2], &two, slices), t[kConv2], wants(kConv2));
      give(kConv2, gw2);
      auto inner = mix_grad_loops(mid, t[kP2], &two, gy2, gy2, false, wants(kP2), slices);
      give(kP2, inner.dp);
      give(kW2Norm, inner.s2);
      give(kB2Norm, inner.s1);
      Tensor e = -(two.scale * inner.s2 * two.invstd) / rows;
      combine_rows(gy2, mid, gy2, two.scale, -(two.scale * inner.s1) / rows - e * two.mean, e);

      auto [gy1, gw1] = convolve_grad(gy2, mixed, t[kConv1], wants(kConv1));
      give(kConv1, gw1);
      auto outer = mix_grad_loops(in, t[kP1], &one, gy1, g.narrow(1, 0, width), true, wants(kP1), slices);
      give(kP1, outer.dp);
      give(kW1Norm, outer.s2);
      give(kB1Norm, outer.s1);
      rest.narrow(0, 0, width).add_(one.scale * outer.s1);
      slope.narrow(0, 0, width).add_(one.scale * outer.s2);
    }
    if (ctx->needs_input_grad(0)) result[0] = finished(0, first);
    return result;
  }
};

void check_block(const Tensor &x, at::TensorList params, int64_t slices, int64_t growth) {
  TORCH_CHECK(params.size() % kPerLayer == 0 && !params.empty(), "dense block: ", params.size(), " parameters, want a multiple of ", int(kPerLayer));
  TORCH_CHECK(fast(x, slices) && growth % kWidth == 0, "dense block: x is ", x.toString(), " ", x.sizes(), ", growth ", growth,
              ": want float or bfloat16 maps on the CPU with channels in multiples of ", kWidth, " and 1, 3, 5, 7 or 9 slices");
  for (size_t i = 0; i < params.size(); i += kPerLayer) {
    TORCH_CHECK(params[i + kConv1].size(0) % kWidth == 0 && params[i + kConv2].size(0) == growth, "dense block: layer ", i / kPerLayer, " has convolutions ",
                params[i + kConv1].sizes(), " and ", params[i + kConv2].sizes());
  }
}

// dense_block: x, then per layer norm1 (weight, bias, mean, variance), p1, conv1, norm2,
// p2, conv2; slices, growth, train, lean. In training it uses the batch's statistics,
// updates the running ones in place and is differentiable.
std::vector<Tensor> dense_block(const AfCall &call) {
  Tensor x = call.tensor(0);
  std::vector<Tensor> params(call.tensors.begin() + 1, call.tensors.end());
  int64_t slices = call.integer(0), growth = call.integer(1);
  check_block(x, params, slices, growth);
  x = channels_last(x);
  for (size_t i = 0; i < params.size(); i++) {
    if (i % kPerLayer == kP1 || i % kPerLayer == kP2) params[i] = params[i].contiguous();
  }
  if (call.integer(2) != 0) return {DenseBlock::apply(x, at::TensorList(params), slices, growth, call.integer(3) != 0)};
  at::NoGradGuard guard;
  int64_t layers = static_cast<int64_t>(params.size()) / kPerLayer, first = x.size(1);
  Tensor buffer = empty_map(x, first + layers * growth);
  buffer.narrow(1, 0, first).copy_(x);
  for (int64_t l = 0; l < layers; l++) {
    DenseLayer layer{&params[l * kPerLayer], slices};
    const Tensor *t = layer.t;
    int64_t width = first + l * growth;
    Norm one = make_norm(t[kW1Norm], t[kB1Norm], t[kMean1], t[kVar1]);
    Norm two = make_norm(t[kW2Norm], t[kB2Norm], t[kMean2], t[kVar2]);
    buffer.narrow(1, width, growth).copy_(layer.out(layer.bottleneck(buffer.narrow(1, 0, width), one), two));
  }
  return {buffer};
}

const bool registered = af_register("slice_mix", slice_mix) && af_register("dense_block", dense_block);

} // namespace
