// c10d's NCCL backend for a group that Gloo has joined (../../group.cpp), where libtorch is
// for CUDA. A library of its own: the other one serves libtorches without CUDA, too.
#ifndef USE_C10D_NCCL
#define USE_C10D_NCCL
#endif
#include <nccl.h> // first: where it is missing, nothing else is compiled in vain

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>
#include <cstring>
#include <exception>

// af_nccl_join makes *backend a new c10::intrusive_ptr<c10d::Backend> of the members of *store, a
// c10::intrusive_ptr<c10d::Store>. It returns null, or what went wrong in memory that the caller frees.
extern "C" char *af_nccl_join(void *store, int rank, int size, double seconds, void **backend) {
  try {
    auto &meeting = *static_cast<c10::intrusive_ptr<c10d::Store> *>(store);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(int64_t(seconds * 1000));
    c10::intrusive_ptr<c10d::Backend> made = c10::make_intrusive<c10d::ProcessGroupNCCL>(
        c10::make_intrusive<c10d::PrefixStore>("nccl", meeting), rank, size, options);
    *backend = new c10::intrusive_ptr<c10d::Backend>(std::move(made));
    return nullptr;
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("unknown exception");
  }
}
