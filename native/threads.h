// A pool of threads that share the work of one call after another.
//
// Workers spin for a moment between two calls and sleep after it. Work is cut into more chunks than there are threads,
// and each thread takes the next chunk when it has done one. The caller works too and waits for chunks, never for
// workers: one that the operating system has put aside holds up the chunk it has begun and nothing else, and in a forked
// process, which has no workers, the caller does everything.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace halve {

class Pool {
 public:
  explicit Pool(size_t threads);  // the calling thread is one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  size_t threads() const { return workers_.size() + 1; }

  // Calls work(0) ... work(chunks - 1), each once, on any thread and in any order. One caller at a time.
  template <class Work>
  void run(size_t chunks, const Work& work) {
    if (workers_.empty() || chunks <= 1) {
      for (size_t chunk = 0; chunk < chunks; ++chunk) work(chunk);
      return;
    }
    call_ = [](const void* context, size_t chunk) { (*static_cast<const Work*>(context))(chunk); };
    context_ = &work;
    share(chunks);
  }

 private:
  void share(size_t chunks);
  void serve();
  bool take();

  // `call_` and `context_` belong to whoever has taken a chunk: they change only when every chunk is done. A worker that
  // comes late takes a number below one and looks at nothing.
  void (*call_)(const void* context, size_t chunk) = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<int64_t> left_{0};        // chunks that nobody has taken
  alignas(64) std::atomic<int64_t> unfinished_{0};  // chunks that nobody has done
  alignas(64) std::atomic<uint32_t> calls_{0};
  std::atomic<bool> closing_{false};
  std::vector<std::thread> workers_;
  const long process_;  // whose workers they are: a forked one has none
};

}  // namespace halve
