#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "angle/cpu_sequence.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif

namespace gainrl {
namespace {

// The entry to a parallel region that GNU's and LLVM's OpenMP runtimes share.
using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

#if defined(__linux__)

// How many libraries the process has loaded so far: nothing new can be found before it grows.
int count_loads(dl_phdr_info* info, std::size_t, void* data) {
  *static_cast<unsigned long long*>(data) = info->dlpi_adds;
  return 1;
}

int find_runtime(dl_phdr_info* info, std::size_t, void* data) {
  const char* slash = std::strrchr(info->dlpi_name, '/');
  const char* name = slash != nullptr ? slash + 1 : info->dlpi_name;
  const auto starts = [name](const char* with) { return std::strncmp(name, with, std::strlen(with)) == 0; };
  if (!starts("libgomp") && !starts("libiomp5") && !starts("libomp")) return 0;
  void* library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);  // stays loaded as long as the process
  if (library == nullptr) return 0;
  *static_cast<Parallel*>(data) = reinterpret_cast<Parallel>(dlsym(library, "GOMP_parallel"));
  return *static_cast<Parallel*>(data) != nullptr ? 1 : 0;
}

Parallel runtime() {
  static std::atomic<Parallel> found{nullptr};
  static std::atomic<unsigned long long> seen{0};
  Parallel parallel = found.load(std::memory_order_acquire);
  if (parallel != nullptr) return parallel;
  unsigned long long loads = 0;
  dl_iterate_phdr(count_loads, &loads);
  if (loads == seen.load(std::memory_order_relaxed)) return nullptr;
  dl_iterate_phdr(find_runtime, &parallel);
  found.store(parallel, std::memory_order_release);
  seen.store(loads, std::memory_order_relaxed);
  return parallel;
}

#else

Parallel runtime() { return nullptr; }

#endif

}  // namespace

void on_threads(int threads, void (*body)(void*), void* data) {
  if (threads <= 1) return body(data);
  if (const Parallel parallel = runtime()) return parallel(body, data, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> helpers;
  try {
    helpers.reserve(static_cast<std::size_t>(threads - 1));
    for (int i = 1; i < threads; ++i) helpers.emplace_back(body, data);
  } catch (const std::exception&) {
    // No more threads to be had: those that run do all the work.
  }
  body(data);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace gainrl
