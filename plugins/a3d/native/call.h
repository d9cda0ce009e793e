// The door from Go to libtorch's dispatcher.
#ifndef ALIGNEDFUSION_A3D_CALL_H
#define ALIGNEDFUSION_A3D_CALL_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// af_a3d_call runs the operator called name ("library::operator") and stores its one
// result, a new at::Tensor, in *out. Arguments are taken in the order of the operator's
// schema: a Tensor is the next tensor, a Tensor[] takes what the rest of the schema
// leaves, an int or a bool is the next number, a float has its bits there. Returns NULL, or the error's text, which
// the caller frees. No exception leaves it.
char *af_a3d_call(const char *name, void *const *tensors, size_t ntensors, const int64_t *numbers, size_t nnumbers, void **out);

// af_a3d_cuda returns 1 where the kernels for GPUs are part of this library.
int af_a3d_cuda(void);

#ifdef __cplusplus
}
#endif
#endif
