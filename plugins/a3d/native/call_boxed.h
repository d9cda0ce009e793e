// What call.h declares. Included once, by library.cpp.
#ifndef ALIGNEDFUSION_A3D_CALL_BOXED_H
#define ALIGNEDFUSION_A3D_CALL_BOXED_H
#include "call.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstring>

namespace {

using c10::TypeKind;

// Arguments hands out what the caller gave, in the schema's order.
struct Arguments {
  void *const *tensors;
  const int64_t *numbers;
  size_t ntensors, nnumbers, tensor = 0, number = 0;

  at::Tensor next_tensor(const c10::Argument &wanted) {
    TORCH_CHECK(tensor < ntensors && tensors[tensor], "tensor ", wanted.name(), " is missing");
    return *static_cast<const at::Tensor *>(tensors[tensor++]);
  }
  c10::List<at::Tensor> next_list(const c10::Argument &wanted, size_t left) {
    c10::List<at::Tensor> list;
    while (tensor + left < ntensors) list.push_back(next_tensor(wanted));
    return list;
  }
  int64_t next_number(const c10::Argument &wanted) {
    TORCH_CHECK(number < nnumbers, "number ", wanted.name(), " is missing");
    return numbers[number++];
  }
  double next_float(const c10::Argument &wanted) {
    int64_t bits = next_number(wanted);
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

size_t tensors_after(const std::vector<c10::Argument> &arguments, size_t index) {
  size_t count = 0;
  for (size_t i = index + 1; i < arguments.size(); i++) count += arguments[i].type()->kind() == TypeKind::TensorType;
  return count;
}

at::Tensor call(const char *name, Arguments given) {
  auto found = c10::Dispatcher::singleton().findSchema({name, ""});
  TORCH_CHECK(found, "libtorch has no operator ", name);
  torch::jit::Stack stack;
  const auto &arguments = found->schema().arguments();
  for (size_t i = 0; i < arguments.size(); i++) {
    const c10::Argument &a = arguments[i];
    switch (a.type()->kind()) {
    case TypeKind::TensorType: stack.emplace_back(given.next_tensor(a)); break;
    case TypeKind::ListType: stack.emplace_back(given.next_list(a, tensors_after(arguments, i))); break;
    case TypeKind::IntType: stack.emplace_back(given.next_number(a)); break;
    case TypeKind::FloatType: stack.emplace_back(given.next_float(a)); break;
    case TypeKind::BoolType: stack.emplace_back(given.next_number(a) != 0); break;
    default: TORCH_CHECK(false, name, ": argument ", a.name(), " is a ", a.type()->str(), ", which cannot be given from here");
    }
  }
  TORCH_CHECK(given.tensor == given.ntensors && given.number == given.nnumbers, name, ": ", given.ntensors, " tensors and ", given.nnumbers,
              " numbers given, ", given.tensor, " and ", given.number, " taken by ", found->schema());
  found->callBoxed(&stack);
  TORCH_CHECK(stack.size() == 1 && stack[0].isTensor(), name, " has not one tensor as result");
  return stack[0].toTensor();
}

} // namespace

char *af_a3d_call(const char *name, void *const *tensors, size_t ntensors, const int64_t *numbers, size_t nnumbers, void **out) {
  try {
    *out = new at::Tensor(call(name, {tensors, numbers, ntensors, nnumbers}));
    return nullptr;
  } catch (const c10::Error &e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an exception of unknown kind");
  }
}
#endif
