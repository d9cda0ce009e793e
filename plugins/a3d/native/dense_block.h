// A dense block (DenseNet with slice mixing before every convolution) in one kernel.
// Included once, by library.cpp.
#ifndef ALIGNEDFUSION_A3D_DENSE_BLOCK_H
#define ALIGNEDFUSION_A3D_DENSE_BLOCK_H
#include "slice_mix.h"

namespace {

constexpr double kEps = 1e-5, kMomentum = 0.1; // as torchvision's DenseNet

// Where a layer's tensors stand in the argument list.
enum { kW1Norm, kB1Norm, kMean1, kVar1, kP1, kConv1, kW2Norm, kB2Norm, kMean2, kVar2, kP2, kConv2, kPerLayer };

struct Moments {
  Tensor mean, variance; // biased
};

// batch_moments of every channel. Values are taken relative to the first row, so that
// a large mean costs no precision.
template <typename T> Moments batch_moments_of(const Tensor &x, Way how) {
  Map<T> in(x);
  constexpr int64_t kRows = 256;
  int64_t blocks = (in.rows + kRows - 1) / kRows;
  Tensor partial = at::empty({blocks, 2, in.channels}, x.options().dtype(at::kFloat));
  float *out = partial.data_ptr<float>();
  if (how == kKernels) {
    on_cuda(x, "moments", [&](void *stream) { return CUDALoops<T>::moments(in.data, in.stride, in.rows, in.channels, kRows, out, stream); });
  } else {
    auto loop = loops_for<T>(how).moments;
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; b++) {
        int64_t first = b * kRows;
        loop(in.data + first * in.stride, in.stride, std::min(kRows, in.rows - first), in.channels, in.data,
             out + b * 2 * in.channels, out + (b * 2 + 1) * in.channels);
      }
    });
  }
  Tensor sums = partial.sum(0, false, at::kDouble) / static_cast<double>(in.rows);
  Tensor centre = at::from_blob(in.data, {in.channels}, x.options()).to(at::kDouble);
  return {(sums[0] + centre).to(at::kFloat), (sums[1] - sums[0] * sums[0]).clamp_min(0).to(at::kFloat)};
}

Moments batch_moments(const Tensor &x) {
  Way how = way(x);
  if (how == kOperators) {
    auto [variance, mean] = at::var_mean(x.to(at::kFloat), at::IntArrayRef{0, 2, 3}, false);
    return {mean, variance};
  }
  return with_type(x, [&](auto type) { return batch_moments_of<decltype(type)>(x, how); });
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

// On one thread ATen leaves 1x1 convolutions of fewer maps than these to im2col and the BLAS,
// and oneDNN is faster.
constexpr int64_t kManyMaps = 16;

// maps_for is the number of maps as which a convolution should see x: more where runs of rows
// can stand for maps of their own, which changes nothing for one cell at a time.
int64_t maps_for(const Tensor &x, const Tensor &weight) {
  int64_t maps = x.size(0), rows = x.size(2);
  if (weight.size(2) != 1 || maps >= kManyMaps || !x.device().is_cpu() || at::get_num_threads() > 1) return maps;
  int64_t parts = (kManyMaps + maps - 1) / maps;
  while (parts < rows && rows % parts) parts++;
  return maps * std::min(parts, rows);
}

// as_maps sees a channels-last map's rows as those of another number of maps.
Tensor as_maps(const Tensor &x, int64_t maps) {
  if (maps == x.size(0)) return x;
  return x.permute({0, 2, 3, 1}).reshape({maps, x.size(0) * x.size(2) / maps, x.size(3), x.size(1)}).permute({0, 3, 1, 2});
}

// Convolutions run in the activations' type; parameters and their gradients are float.
Tensor convolve(const Tensor &x, const Tensor &weight) {
  Tensor y = at::conv2d(as_maps(x, maps_for(x, weight)), weight.to(x.scalar_type()), {}, 1, weight.size(2) / 2);
  return as_maps(channels_last(y), x.size(0));
}

std::tuple<Tensor, Tensor> convolve_grad(const Tensor &g, const Tensor &x, const Tensor &weight, bool weights) {
  int64_t pad = weight.size(2) / 2, maps = maps_for(x, weight);
  auto [gx, gw, unused] = at::convolution_backward(as_maps(g, maps), as_maps(x, maps), weight.to(x.scalar_type()), {}, {1, 1}, {pad, pad}, {1, 1},
                                                   false, {0, 0}, 1, {true, weights, false});
  return {as_maps(channels_last(gx), x.size(0)), weights ? gw.to(weight.scalar_type()) : gw};
}

// combine_rows writes a g + b + e x per channel to out. g is float or of x's type.
void combine_rows(const Tensor &g, const Tensor &x, const Tensor &out, const Tensor &a, const Tensor &b, const Tensor &e) {
  Way how = way(x);
  if (how == kOperators) {
    auto channels = [](const Tensor &t) { return t.view({1, -1, 1, 1}); };
    out.copy_((g * channels(a) + channels(b)).addcmul_(x.to(at::kFloat), channels(e)));
    return;
  }
  Tensor ac = a.contiguous(), bc = b.contiguous(), ec = e.contiguous();
  const float *as = ac.data_ptr<float>(), *bs = bc.data_ptr<float>(), *es = ec.data_ptr<float>();
  with_type(x, [&](auto type) {
    using T = decltype(type);
    Map<T> mx(x), mo(out);
    auto launch = [&](auto mg) {
      on_cuda(x, "gradient of a normalisation", [&](void *stream) {
        return CUDALoops<T>::combine(mg.data, mg.stride, mx.data, mx.stride, mo.data, mo.stride, mg.rows, mg.channels, as, bs, es, stream);
      });
    };
    auto run = [&](auto mg, auto loop) {
      at::parallel_for(0, mg.rows, 1024, [&](int64_t begin, int64_t end) {
        loop(mg.data + begin * mg.stride, mg.stride, mx.data + begin * mx.stride, mx.stride, mo.data + begin * mo.stride, mo.stride,
             end - begin, mg.channels, as, bs, es);
      });
    };
    if (how == kKernels) {
      g.scalar_type() == at::kFloat ? launch(Map<float>(g)) : launch(Map<T>(g));
    } else if (g.scalar_type() == at::kFloat) {
      run(Map<float>(g), loops_for<T>(how).combine_float);
    } else {
      run(Map<T>(g), loops_for<T>(how).combine);
    }
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
      moments = {at::cat({moments.mean, added.mean}), at::cat({moments.variance, added.variance})};
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
    Tensor g = at::empty({buffer.size(0), buffer.size(2), buffer.size(3), buffer.size(1)}, mean.options()).permute({0, 3, 1, 2});
    g.copy_(grads[0]);
    Tensor rest = at::zeros_like(mean), slope = at::zeros_like(mean);
    auto finished = [&](int64_t from, int64_t count) {
      Tensor x = buffer.narrow(1, from, count), out = empty_map(buffer, count);
      Tensor e = -(slope.narrow(0, from, count) * invstd.narrow(0, from, count)) / rows;
      Tensor b = -rest.narrow(0, from, count) / rows - e * mean.narrow(0, from, count);
      combine_rows(g.narrow(1, from, count), x, out, at::ones_like(b), b, e);
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

// infer_block is the block in inference: running statistics, nothing kept but the buffer.
Tensor infer_block(const Tensor &x, at::TensorList params, int64_t slices, int64_t growth) {
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
  return buffer;
}

} // namespace

#endif
