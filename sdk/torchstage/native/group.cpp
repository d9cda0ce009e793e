// Gradients averaged, and batches normalised, over processes by c10d's Gloo backend: what
// sdk/torchstage/parallel.go calls. All of it runs on libtorch's CPU memory; gradients of other devices are
// copied, or averaged where they are by NCCL (nccl/native).
//
// Every function returns null, or what went wrong in memory that the caller frees. Nothing is
// computed here: optimising more than this takes a second of every set-up.
#pragma GCC optimize("O1")
#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO
#endif
#include <gloo/config.h> // first: where it is missing, nothing else is compiled in vain

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/version.h>
#if TORCH_VERSION_MAJOR >= 2
#include <torch/csrc/distributed/c10d/Backend.hpp>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

#if TORCH_VERSION_MAJOR >= 2
using Backend = c10d::Backend;
#else
using Backend = c10d::ProcessGroup;
#endif

// DeviceJoin is af_nccl_join.
using DeviceJoin = char *(*)(void *store, int rank, int size, double seconds, void **backend);

// Bytes of one all-reduce: large enough for the network, small enough that copying the next
// ones together runs beside it.
constexpr int64_t kBucketBytes = 25 << 20;

// Arrivals are the gradients of a step that have come, while Backward still computes others.
struct Arrivals {
  std::vector<at::Tensor> parameters;    // in the order of af_group_average
  std::vector<size_t> first;             // of each bucket, and the end
  std::vector<bool> come;
  size_t begun = 0;                      // buckets that are under way
  bool awaited = false;
  std::function<void(size_t, size_t)> reduce; // of the parameters from one on to another

  // Members begin buckets in one order, whatever came first.
  void arrive(size_t i) {
    if (!awaited) return;
    come[i] = true;
    for (; begun + 1 < first.size(); begun++) {
      for (size_t k = first[begun]; k < first[begun + 1]; k++)
        if (!come[k]) return;
      reduce(first[begun], first[begun + 1]);
    }
  }
};

struct Arrival : torch::autograd::FunctionPostHook {
  std::shared_ptr<Arrivals> to;
  size_t i;
  Arrival(std::shared_ptr<Arrivals> to, size_t i) : to(std::move(to)), i(i) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list &outputs, const torch::autograd::variable_list &) override {
    to->arrive(i);
    return outputs;
  }
};

struct Bucket {
  at::Tensor flat;
  std::vector<at::Tensor> into; // parameters whose gradients lie in flat, or statistics
  c10::intrusive_ptr<c10d::Work> work;
};

// single is the precision that a tensor is averaged or normalised in.
at::ScalarType single(const at::Tensor &t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor &tensor(void *t) { return *static_cast<at::Tensor *>(t); }

struct Group {
  int size;
  c10::intrusive_ptr<c10d::TCPStore> store;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
  c10::intrusive_ptr<Backend> device; // averages gradients where they are; null: the CPU does
  // What af_group_average has begun: buckets of gradients, then one of the statistics with
  // the number of members that have each gradient in front.
  std::vector<Bucket> pending;
  size_t parameters = 0;
  std::shared_ptr<Arrivals> arrivals = std::make_shared<Arrivals>();
  // They keep the hooks; libtorches of different years have pointers of different kinds.
  std::vector<decltype(torch::autograd::impl::grad_accumulator(std::declval<at::Tensor>()))> accumulators;

  ~Group() { arrivals->awaited = false; }

  // plan divides parameters into buckets, once.
  void plan(void *const *parameters, size_t n) {
    if (!arrivals->first.empty()) return;
    arrivals->first.push_back(0);
    int64_t bytes = 0;
    for (size_t i = n; i-- > 0;) { // the last ones have their gradients first
      arrivals->parameters.push_back(tensor(parameters[i]));
      bytes += arrivals->parameters.back().numel() * int64_t(sizeof(float));
      if (bytes >= kBucketBytes || i == 0) {
        arrivals->first.push_back(arrivals->parameters.size());
        bytes = 0;
      }
    }
    arrivals->come.assign(n, false);
    arrivals->reduce = [this](size_t from, size_t end) { gradients(from, end); };
  }

  // gradients begins to sum those of a bucket; a missing one counts as zero.
  void gradients(size_t from, size_t end) {
    at::NoGradGuard guard;
    std::vector<at::Tensor> pieces, into;
    for (size_t i = from; i < end; i++) {
      auto &p = arrivals->parameters[i];
      pieces.push_back(p.grad().defined() ? p.grad() : at::zeros_like(p));
      into.push_back(p);
    }
    reduce(std::move(pieces), std::move(into), bool(device));
  }

  void reduce(std::vector<at::Tensor> pieces, std::vector<at::Tensor> into, bool there) {
    at::NoGradGuard guard;
    for (auto &t : pieces) t = t.detach().reshape({-1}).to(there ? t.device() : at::Device(at::kCPU), single(pieces.back()));
    pending.push_back({at::cat(pieces), std::move(into), {}});
    std::vector<at::Tensor> one{pending.back().flat};
    pending.back().work = there ? device->allreduce(one) : gloo->allreduce(one);
  }

  // sum is the sum over the members of rows of doubles, on the device of one of them.
  std::vector<at::Tensor> sum(const std::vector<at::Tensor> &rows) {
    std::vector<at::Tensor> flat;
    std::vector<int64_t> sizes;
    for (auto &t : rows) {
      flat.push_back(t.reshape({-1}).to(at::kDouble));
      sizes.push_back(t.numel());
    }
    std::vector<at::Tensor> one{at::cat(flat)};
    if (device) {
      device->allreduce(one)->wait();
    } else {
      one[0] = one[0].to(at::kCPU);
      gloo->allreduce(one)->wait();
    }
    return one[0].to(rows[0].device()).split_with_sizes(sizes);
  }
};

template <typename F> char *guarded(F f) {
  try {
    f();
    return nullptr;
  } catch (const c10::Error &e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("unknown exception");
  }
}

// SyncNorm is batch normalisation by the mean and the variance over all members' batches.
// libtorch's own kernels for inference do the arithmetic on the maps in both directions.
struct SyncNorm : torch::autograd::Function<SyncNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w, const at::Tensor &b,
                            at::Tensor running_mean, at::Tensor running_var, double momentum, double eps, int64_t group) {
    auto g = reinterpret_cast<Group *>(group);
    auto local = at::batch_norm_update_stats(x, {}, {}, 0);
    auto mean = std::get<0>(local).to(at::kDouble), variance = std::get<1>(local).to(at::kDouble);
    auto count = at::full({1}, double(x.numel()) / double(x.size(1)), mean.options());
    auto sums = g->sum({count, mean * count, (variance + mean * mean) * count});
    double n = sums[0].item<double>();
    mean = sums[1] / n;
    variance = (sums[2] / n - mean * mean).clamp_min(0);
    if (running_mean.defined()) running_mean.mul_(1 - momentum).add_(mean, momentum);
    if (running_var.defined()) running_var.mul_(1 - momentum).add_(variance * (n / std::max(n - 1, 1.0)), momentum);
    mean = mean.to(single(x)), variance = variance.to(single(x));
    ctx->save_for_backward({x, w, mean, variance});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["n"] = n;
    ctx->saved_data["group"] = group;
    return std::get<0>(at::native_batch_norm(x, w, b, mean, variance, false, 0, eps));
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext *ctx, torch::autograd::tensor_list out) {
    auto saved = ctx->get_saved_variables();
    auto &x = saved[0], &w = saved[1], &mean = saved[2], &variance = saved[3];
    double eps = ctx->saved_data["eps"].toDouble(), n = ctx->saved_data["n"].toDouble();
    auto g = reinterpret_cast<Group *>(ctx->saved_data["group"].toInt());
    // As if the statistics were constants; what they add goes with the sums over all members.
    auto own = at::native_batch_norm_backward(out[0], x, w, mean, variance, {}, {}, false, eps, {true, true, true});
    auto dx = std::get<0>(own), dw = std::get<1>(own), db = std::get<2>(own);
    auto sums = g->sum({dw, db});
    auto scale = (variance.to(at::kDouble) + eps).rsqrt();
    auto gain = w.defined() ? w.to(at::kDouble) * scale : scale;
    auto slope = -gain * scale * sums[0] / n;
    auto shift = -gain * sums[1] / n - slope * mean;
    std::vector<int64_t> shape(size_t(x.dim()), 1);
    shape[1] = -1;
    auto wide = [&](const at::Tensor &t) { return t.to(x.scalar_type()).view(shape); };
    dx = dx.addcmul(x, wide(slope)).add_(wide(shift));
    if (!w.defined()) dw = at::Tensor(), db = at::Tensor();
    return {dx, dw, db, {}, {}, {}, {}, {}};
  }
};

} // namespace

extern "C" {

// af_group_join waits until size processes have met at the store, which rank 0 serves.
// address is where the others reach this one. device is a DeviceJoin, or null: gradients pass through the CPU.
char *af_group_join(const char *host, int port, const char *address, int rank, int size, double seconds, void *device, void **group) {
  return guarded([&] {
    auto timeout = std::chrono::milliseconds(int64_t(seconds * 1000));
    c10d::TCPStoreOptions where;
    where.port = uint16_t(port);
    where.isServer = rank == 0;
    where.numWorkers = size;
    where.timeout = timeout;
    auto made = std::make_unique<Group>();
    made->size = size;
    made->store = c10::make_intrusive<c10d::TCPStore>(host, where);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
    made->gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(made->store, rank, size, options);
    if (device) {
      c10::intrusive_ptr<c10d::Store> store = made->store;
      void *backend = nullptr;
      if (char *failure = reinterpret_cast<DeviceJoin>(device)(&store, rank, size, seconds, &backend)) {
        std::string text = failure;
        free(failure);
        throw std::runtime_error(text);
      }
      std::unique_ptr<c10::intrusive_ptr<Backend>> taken(static_cast<c10::intrusive_ptr<Backend> *>(backend));
      made->device = *taken;
    }
    *group = made.release();
  });
}

// af_group_share gives tensors the values of rank 0.
char *af_group_share(void *group, void *const *tensors, size_t n) {
  return guarded([&] {
    at::NoGradGuard guard;
    for (size_t i = 0; i < n; i++) {
      std::vector<at::Tensor> one{tensor(tensors[i]).detach().to(at::kCPU).contiguous().clone()};
      static_cast<Group *>(group)->gloo->broadcast(one)->wait();
      tensor(tensors[i]).detach().copy_(one[0]);
    }
  });
}

// af_group_await has the gradients of parameters averaged as the next Backward makes them.
char *af_group_await(void *group, void *const *parameters, size_t n) {
  auto g = static_cast<Group *>(group);
  return guarded([&] {
    g->plan(parameters, n);
    if (g->accumulators.empty())
      for (size_t i = 0; i < n; i++) {
        g->accumulators.push_back(torch::autograd::impl::grad_accumulator(g->arrivals->parameters[i]));
        g->accumulators.back()->add_post_hook(std::make_unique<Arrival>(g->arrivals, i));
      }
    g->arrivals->come.assign(n, false);
    g->arrivals->awaited = true;
  });
}

// af_group_average begins to average the gradients of parameters that are not under way, and
// statistics themselves. early becomes how many buckets were.
char *af_group_average(void *group, void *const *parameters, size_t n, void *const *statistics, size_t m, size_t *early) {
  auto g = static_cast<Group *>(group);
  return guarded([&] {
    at::NoGradGuard guard;
    g->plan(parameters, n);
    auto &a = *g->arrivals;
    a.awaited = false;
    *early = a.begun;
    for (size_t b = a.begun; b + 1 < a.first.size(); b++) g->gradients(a.first[b], a.first[b + 1]);
    a.begun = 0;
    std::vector<at::Tensor> pieces, into;
    auto there = at::zeros({int64_t(n)}, at::kFloat);
    for (size_t i = 0; i < n; i++)
      if (a.parameters[i].grad().defined()) there[int64_t(i)] = 1;
    pieces.push_back(there);
    for (size_t i = 0; i < m; i++) {
      pieces.push_back(tensor(statistics[i]));
      into.push_back(tensor(statistics[i]));
    }
    g->parameters = n;
    g->reduce(std::move(pieces), std::move(into), false);
  });
}

// af_group_finish waits for what was begun and puts it in place.
char *af_group_finish(void *group) {
  auto g = static_cast<Group *>(group);
  auto pending = std::move(g->pending);
  g->pending.clear();
  return guarded([&] {
    at::NoGradGuard guard;
    if (pending.empty()) return;
    for (auto &b : pending) b.work->wait();
    auto &last = pending.back();
    auto there = last.flat.narrow(0, 0, int64_t(g->parameters));
    size_t i = 0;
    for (auto &b : pending) {
      bool gradients = &b != &last;
      int64_t at = gradients ? 0 : int64_t(g->parameters);
      b.flat.narrow(0, at, b.flat.numel() - at).div_(g->size);
      for (auto &t : b.into) {
        auto mean = b.flat.narrow(0, at, t.numel()).view(t.sizes());
        at += t.numel();
        if (!gradients) {
          t.detach().copy_(mean);
        } else if (there[int64_t(i++)].item<double>() > 0) {
          if (t.grad().defined()) {
            t.grad().detach().copy_(mean);
          } else {
            t.mutable_grad() = mean.to(t.device(), /*non_blocking=*/false, /*copy=*/true);
          }
        }
      }
    }
  });
}

// af_group_norm is SyncNorm; w, b and the running statistics may be null.
char *af_group_norm(void *group, void *const *tensors, double momentum, double eps, void **out) {
  return guarded([&] {
    std::vector<at::Tensor> in;
    for (size_t i = 0; i < 5; i++) in.push_back(tensors[i] ? tensor(tensors[i]) : at::Tensor());
    for (size_t i = 3; i < 5; i++)
      if (in[i].defined()) in[i] = in[i].detach();
    *out = new at::Tensor(SyncNorm::apply(in[0], in[1], in[2], in[3], in[4], momentum, eps, reinterpret_cast<int64_t>(group)));
  });
}

void af_group_leave(void *group) { delete static_cast<Group *>(group); }

}
