// Counts an iteration, on the device: a graph that is replayed has the same arguments each time.
//
//   iteration ← iteration + 1
//
// Layout: Progress.iteration (progress.cuh). Types: u64. Launch: one block of 32, of which one thread works.
// Bound: launch latency.
// Neighbours: last in an iteration, behind everything that reads its number.
#include "kernel.cuh"
#include "progress.cuh"

KERNEL(progress_advance, 32, (uint64_t* iteration)) {
    if (threadIdx.x == 0) *iteration += 1;
}
