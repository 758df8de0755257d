// Running one function on several threads at once.
#pragma once

namespace gainrl {

// Calls body(data) on up to `threads` threads, the caller's among them, and returns when all calls have.  `body` must
// not throw, and must be right on any number of threads, one included.
//
// The threads are those of the OpenMP runtime that the process has loaded already (torch's), if there is one: they are
// there, and after a parallel region they spin for milliseconds on the very cores that threads of our own would need.
// Otherwise threads are made for the call.
void on_threads(int threads, void (*body)(void*), void* data);

}  // namespace gainrl
