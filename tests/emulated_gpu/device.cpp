// Tensors of the device "cuda" that lie in the memory of the CPU, whose kernels compute them.
//
// Every operation comes to `on_cpu`, which gives the CPU's kernel aliases of the same memory. Tensors of both devices in
// one operation are refused as by a real GPU.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <set>

using at::Tensor;
using c10::IValue;

namespace {

c10::DeviceIndex current = 0;

c10::DeviceIndex devices() {
  const char* told = getenv("EMULATED_GPUS");
  return told ? atoi(told) : 1;
}

c10::Device here() { return {c10::kCUDA, current}; }

struct Memory final : c10::Allocator {
  static void release(void* data) { free(data); }
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    return {data, data, &release, here()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

Memory memory;
const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);

// The same memory as a tensor of the CPU.
Tensor on_host(const Tensor& tensor) {
  auto options = at::TensorOptions().dtype(tensor.dtype()).device(at::kCPU);
  auto kept = tensor;
  auto alias = at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), [kept](void*) {}, options);
  if (tensor.is_conj()) alias = alias.conj();
  if (tensor.is_neg()) alias._set_neg(true);
  return alias;
}

// A tensor of the CPU, to which nobody else holds on, as one of the device.
Tensor on_device(const Tensor& tensor) {
  auto plain = tensor.resolve_conj().resolve_neg();
  size_t bytes = at::detail::computeStorageNbytes(plain.sizes(), plain.strides(), plain.itemsize());
  auto held = new Tensor(plain);
  c10::DataPtr data(plain.data_ptr(), held, [](void* kept) { delete static_cast<Tensor*>(kept); }, here());
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), &memory, true);
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, plain.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(plain.sizes(), plain.strides());
  return made;
}

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

Tensor& copy(Tensor& self, const Tensor& source, bool) {
  auto to = self.is_cuda() ? on_host(self) : self;
  to.copy_(source.is_cuda() ? on_host(source) : source);
  return self;
}

const Tensor& resize(const Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  size_t bytes = c10::multiply_integers(size) * self.itemsize();
  if (bytes > self.storage().nbytes()) {
    auto data = memory.allocate(bytes);
    if (self.storage().nbytes()) memcpy(data.get(), self.storage().data(), self.storage().nbytes());
    impl->set_storage_keep_dtype(c10::Storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), &memory, true));
  }
  impl->set_sizes_contiguous(size);
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_storage_offset(offset);
  if (stride.data()) self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  else self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

// Operations that a GPU takes with indices, or a mask, of the CPU.
const std::set<std::string> mixed = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  std::vector<IValue> given(stack->begin() + first, stack->end());
  std::vector<std::pair<Tensor, Tensor>> resized;  // of the device, and what the CPU's kernel makes in its place
  bool device = false, host = false;

  auto lower = [&](const Tensor& tensor, bool written) -> Tensor {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      host |= tensor.dim() > 0;
      return tensor;
    }
    device = true;
    if (written && tensor.numel() == 0) {
      resized.emplace_back(tensor, at::empty(tensor.sizes(), tensor.options().device(at::kCPU)));
      return resized.back().second;
    }
    return on_host(tensor);
  };

  c10::impl::ExcludeDispatchKeyGuard below(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  c10::impl::ExcludeDispatchKeyGuard plain(c10::autocast_dispatch_keyset);
  for (size_t k = 0; k < count; k++) {
    IValue& value = (*stack)[first + k];
    const auto* alias = schema.arguments()[k].alias_info();
    const bool written = alias && alias->isWrite();
    if (value.isTensor()) {
      value = lower(value.toTensor(), written);
    } else if (value.isTensorList()) {
      std::vector<Tensor> all;
      for (const auto& one : value.toTensorVector()) all.push_back(lower(one, written));
      value = IValue(all);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> all;
      for (std::optional<Tensor> one : value.toOptionalTensorList())
        all.push_back(one ? std::optional<Tensor>(lower(*one, written)) : one);
      value = IValue(all);
    } else if (value.isList() && value.toListRef().size() && value.toListRef()[0].isTensorList()) {
      c10::List<c10::List<Tensor>> all;
      for (const auto& list : value.toListRef()) {
        c10::List<Tensor> row;
        for (const auto& one : list.toTensorVector()) row.push_back(lower(one, written));
        all.push_back(row);
      }
      value = IValue(all);
    } else if (value.isDevice()) {
      value = IValue(c10::Device(c10::kCPU));
    }
  }
  TORCH_CHECK(!(device && host) || mixed.count(schema.name()),
              "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (", schema.name(), ")");
  op.callBoxed(stack);
  for (auto& [there, made] : resized) {
    if (there.sizes() != made.sizes()) there.resize_(made.sizes());
    if (made.numel()) on_host(there).copy_(made);
  }

  const size_t results = schema.returns().size(), start = stack->size() - results;
  for (size_t k = 0; k < results; k++) {
    IValue& value = (*stack)[start + k];
    const auto* alias = schema.returns()[k].alias_info();
    if (alias && alias->isWrite()) {
      for (size_t j = 0; j < count; j++) {
        const auto* own = schema.arguments()[j].alias_info();
        if (own && own->isWrite() && own->beforeSets() == alias->beforeSets()) value = given[j];
      }
    } else if (value.isTensor()) {
      if (value.toTensor().defined()) value = on_device(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<Tensor> all;
      for (const auto& one : value.toTensorVector()) all.push_back(one.defined() ? on_device(one) : one);
      value = IValue(all);
    }
  }
}

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex current_device() const override { return current; }
  c10::DeviceIndex deviceCount() const override { return devices(); }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  int getNumGPUs() const override { return devices(); }
  bool isPinnedPtr(const void*) const override { return false; }
};
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)

// A process uses one of the devices, with one stream, and has nothing to wait for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return here(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return devices(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("unfold", &at::native::unfold);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  // Which kernel a convolution takes is decided by the device.
  m.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
  m.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

// What processes say to each other goes by the CPU's backend.
TORCH_LIBRARY_IMPL(c10d, CUDA, m) {
  for (const char* name : {"allreduce_", "allreduce_coalesced_", "broadcast_", "allgather_", "_allgather_base_",
                           "allgather_into_tensor_coalesced_", "reduce_scatter_", "_reduce_scatter_base_", "scatter_",
                           "reduce_scatter_tensor_coalesced_", "alltoall_", "alltoall_base_", "gather_", "reduce_"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

}  // namespace

extern "C" void use_device(int index) { current = index; }
