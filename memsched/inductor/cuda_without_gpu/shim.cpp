// Lets a CPU-only build of PyTorch trace and differentiate tensors on "cuda": nothing is ever run there.
//
// Two things are missing in such a build, and both end the process when autograd meets a CUDA tensor:
//   - a device guard: `InputMetadata` of an autograd node asks for the stream of its device;
//   - CUDA hooks: the autograd engine asks `at::getAccelerator` how many device threads to start.
// Both are looked up in registries.  The hooks are looked up once, when torch is imported, so this library must be
// loaded before that; the guard is stored when `memsched_install` is called.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

bool visible = false;  // whether the hooks say that there is a device

const c10::Device kDevice(c10::kCUDA, 0);

struct DeviceGuard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return visible; }
  bool isAvailable() const override { return visible; }
  bool hasCUDA() const override { return visible; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
  int getNumGPUs() const override { return visible ? 1 : 0; }
  c10::DeviceIndex deviceCount() const override { return visible ? 1 : 0; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  bool isPinnedPtr(const void*) const override { return false; }
};

}  // namespace

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}

// Stores the device guard; 0 when this build has one of its own.
extern "C" int memsched_install() {
  auto& slot = c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)];
  if (slot.load() != nullptr) return 0;
  slot.store(new DeviceGuard());
  return 1;
}

// Shows or hides the device; returns what it was.
extern "C" int memsched_show_device(int show) {
  const int was = visible;
  visible = show != 0;
  return was;
}
