// Own native functions of libtch.so, next to gotch's shim. Every function
// reports failure through the shim's thread-local error slot (read it on the
// same OS thread, ts.TorchErr does), and never lets an exception out.
#ifndef AF_EXTRA_H
#define AF_EXTRA_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A torch::Tensor*; opaque on the Go side.
typedef void *af_tensor;

// af_tensor_of_blob wraps memory the caller owns as a contiguous CPU tensor,
// without a copy. The memory must outlive the tensor and every view of it.
af_tensor af_tensor_of_blob(void *data, const int64_t *dims, size_t ndims, int scalar_type);

// af_set_num_threads sets the threads of one operator (OpenMP and BLAS pool).
void af_set_num_threads(int threads);

// af_set_num_interop_threads sets the threads that run operators side by side;
// libtorch allows it once per process, before the first parallel work.
void af_set_num_interop_threads(int threads);

// af_manual_seed seeds the default generators of the CPU and every GPU.
void af_manual_seed(int64_t seed);

// af_grad_set_enabled sets the calling thread's gradient mode and returns the
// previous one (0 or 1).
int af_grad_set_enabled(int enabled);

// af_autocast_set_enabled makes the calling thread compute in bfloat16, or in half precision,
// where that is safe, on the CPU or on the GPU, or ends that.
void af_autocast_set_enabled(int enabled, int cuda, int half);

// af_arithmetic_set says how the process computes in single precision: on GPUs with inputs of
// matrix products and convolutions rounded to TF32, by the convolution that was the fastest of a
// trial, and everywhere by operators alone that give the same bits every time.
void af_arithmetic_set(int tf32, int benchmark, int deterministic);

// af_arithmetic is what was set: 1 for tf32, 2 for benchmark, 4 for deterministic.
int af_arithmetic(void);

// af_backward back-propagates from n outputs with their incoming gradients; a
// null gradient stands for 1. Gradients are added to the leaves.
void af_backward(const af_tensor *outputs, const af_tensor *gradients, size_t n, int keep_graph);

// af_foreach runs one of libtorch's operators on lists of n tensors, on a GPU in as many
// kernels as one tensor takes: zero_, mul_ (by v), add_ (b), and, with results in out, mul (by b,
// or by v where b is null), add (b, or v), div (by b), sqrt, norm (of each, L2).
void af_foreach(const char *op, const af_tensor *a, const af_tensor *b, size_t n, double v, af_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
