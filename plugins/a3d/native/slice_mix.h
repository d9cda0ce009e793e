// Slice mixing of the A3D operator on channels-last maps. Included once, by library.cpp.
//
// A volume's slices lie side by side in the batch dimension: x is [N*D, C, H, W] in
// channels-last memory, possibly the first C channels of a wider buffer. With
// weights p [M, D, D, C] (source slice, target slice, channel; M is 1 or N)
//   y[n, k, c, h, w] = sum_d f(x[n, d, c, h, w]) p[m, d, k, c].
#ifndef ALIGNEDFUSION_A3D_SLICE_MIX_H
#define ALIGNEDFUSION_A3D_SLICE_MIX_H
#include "loops.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <type_traits>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// best_loops are those for this processor's vectors; null without any.
const Loops *best_loops() {
#if defined(__x86_64__)
  static const Loops *const best = [] {
    bool fma = __builtin_cpu_supports("fma");
    if (fma && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) return &avx512_loops;
    return fma && __builtin_cpu_supports("avx2") ? &avx2_loops : nullptr;
  }();
  return best;
#else
  return &plain_loops;
#endif
}

template <typename T> const LoopsFor<T> &loops_for() {
  if constexpr (std::is_same<T, float>::value) {
    return best_loops()->single;
  } else {
    return best_loops()->brain;
  }
}

// pixels_last reports channels side by side and rows without gaps.
bool pixels_last(const Tensor &x) {
  return x.dim() == 4 && (x.stride(1) == 1 || x.size(1) == 1) && (x.size(2) == 1 || x.stride(2) == x.size(3) * x.stride(3)) &&
         (x.size(0) == 1 || x.stride(0) == x.size(2) * x.size(3) * x.stride(3)) && (x.size(3) == 1 || x.stride(3) >= x.size(1));
}

// fast reports whether the loops can run on maps of this kind.
bool fast(const Tensor &x, int64_t slices) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && compiled_for(slices) &&
         x.size(1) % kWidth == 0 && best_loops();
}

Tensor empty_map(const Tensor &like, int64_t channels) {
  return at::empty({like.size(0), like.size(2), like.size(3), channels}, like.options()).permute({0, 3, 1, 2});
}

Tensor channels_last(const Tensor &x) {
  if (pixels_last(x)) return x;
  return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
}

// with_type calls f with a value of the element type the loops use for t.
template <typename F> auto with_type(const Tensor &t, F f) {
  return t.scalar_type() == at::kBFloat16 ? f(BFloat{}) : f(float{});
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
  auto loop = loops_for<T>().mix[slices / 2][norm != nullptr];
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
  auto loop = loops_for<T>().mix_grad[slices / 2][!norm ? kPlainGrad : accumulate ? kAccumulatingGrad : kAffineGrad];
  int64_t copies = p.size(0), tiles = (pixels + kTile - 1) / kTile, all = volumes * tiles;
  int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), all));
  int64_t matrix = slices * slices * channels;
  Tensor dp = at::zeros({threads, weights ? copies * matrix : 0}, p.options()), sums = at::zeros({threads, 2, norm ? channels : 0}, p.options());
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
  Tensor y = at::einsum("ndqc,ndkc->nkqc", {rows, weights});
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

} // namespace

#endif
