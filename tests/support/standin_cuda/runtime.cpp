// libcudart.so.13 on host memory: copies are made, kernels only counted.
//
// Every call that matters is a line of the file STANDIN_CUDA_CALLS: "captured event details", where
// captured is 1 between cudaStreamBeginCapture and cudaStreamEndCapture. Structures are written at
// the offsets of CUDA 13.0's headers, so that none of them is needed to build this.
#include "standin.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <cxxabi.h>
#include <map>
#include <mutex>
#include <string>

namespace {

std::recursive_mutex guard;
int current_device = 0;
long launches = 0;
std::size_t held = 0;
std::map<char*, std::size_t> device_memory, pinned_memory;
std::map<const void*, std::string> kernels;

struct Dim3 {
    unsigned x, y, z;
};
struct LaunchShape {
    Dim3 grid, block;
    std::size_t shared;
    void* stream;
};
thread_local LaunchShape pushed;

bool lost() {
    static const long after = standin_setting("STANDIN_CUDA_LOST_AFTER", -1);
    return after >= 0 && launches > after;
}

int status() {
    if (standin_driver() < 13000) return INSUFFICIENT_DRIVER;
    return lost() ? LAUNCH_FAILURE : SUCCESS;
}

std::size_t total_memory() {
    return static_cast<std::size_t>(standin_setting("STANDIN_CUDA_MEMORY", 80L << 30));
}

void* new_handle() {
    static std::uintptr_t next = 0x1000;
    return reinterpret_cast<void*>(next += 16);
}

char* host_block(std::size_t bytes) {
    auto block = static_cast<char*>(std::aligned_alloc(256, (bytes + 511) / 256 * 256));
    if (block != nullptr) std::memset(block, 0, bytes);
    return block;
}

bool lies_in(const std::map<char*, std::size_t>& blocks, const void* address) {
    auto block = blocks.upper_bound(static_cast<char*>(const_cast<void*>(address)));
    if (block == blocks.begin()) return false;
    --block;
    return static_cast<const char*>(address) < block->first + block->second;
}

template <typename Value>
void put(void* structure, std::size_t offset, Value value) {
    std::memcpy(static_cast<char*>(structure) + offset, &value, sizeof value);
}

int launch(const void* function, Dim3 grid, Dim3 block) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    auto found = kernels.find(function);
    standin_record("kernel", "%s grid %u,%u,%u block %u,%u,%u",
                   found == kernels.end() ? "unknown" : found->second.c_str(), grid.x, grid.y,
                   grid.z, block.x, block.y, block.z);
    return status();
}

}  // namespace

// Devices ------------------------------------------------------------------------------------

CUDA_API int cudaGetDeviceCount(int* count) { *count = 1; return status(); }
CUDA_API int cudaGetDevice(int* device) { *device = current_device; return SUCCESS; }
CUDA_API int cudaSetDevice(int device) {
    if (device != 0) return INVALID_DEVICE;
    current_device = device;
    return status();
}
CUDA_API int cudaDriverGetVersion(int* version) { *version = standin_driver(); return SUCCESS; }
CUDA_API int cudaRuntimeGetVersion(int* version) { *version = 13000; return SUCCESS; }

CUDA_API int cudaGetDeviceProperties(void* properties, int) {
    std::memset(properties, 0, 1008);
    std::snprintf(static_cast<char*>(properties), 256, "%s", standin_name());
    put(properties, 288, total_memory());
    put(properties, 296, std::size_t{49152});       // sharedMemPerBlock
    put(properties, 304, 65536);                    // regsPerBlock
    put(properties, 308, 32);                       // warpSize
    put(properties, 320, 1024);                     // maxThreadsPerBlock
    for (int axis = 0; axis < 3; ++axis) {
        put(properties, 324 + 4 * axis, axis < 2 ? 1024 : 64);         // maxThreadsDim
        put(properties, 336 + 4 * axis, axis < 1 ? 0x7fffffff : 65535);  // maxGridSize
    }
    put(properties, 352, std::size_t{65536});       // totalConstMem
    put(properties, 360, standin_sm() / 10);        // major
    put(properties, 364, standin_sm() % 10);        // minor
    put(properties, 368, std::size_t{512});         // textureAlignment
    put(properties, 384, 132);                      // multiProcessorCount
    put(properties, 560, 1);                        // concurrentKernels
    put(properties, 584, 3);                        // asyncEngineCount
    put(properties, 588, 1);                        // unifiedAddressing
    put(properties, 596, 50 << 20);                 // l2CacheSize
    put(properties, 604, 2048);                     // maxThreadsPerMultiProcessor
    put(properties, 624, std::size_t{233472});      // sharedMemPerMultiprocessor
    put(properties, 632, 65536);                    // regsPerMultiprocessor
    put(properties, 636, 1);                        // managedMemory
    put(properties, 668, 1);                        // cooperativeLaunch
    put(properties, 672, std::size_t{232448});      // sharedMemPerBlockOptin
    put(properties, 688, 32);                       // maxBlocksPerMultiProcessor
    put(properties, 720, 1);                        // memoryPoolsSupported
    return status();
}

CUDA_API int cudaDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {  // enum cudaDeviceAttr
        case 1: *value = 1024; break;     // MaxThreadsPerBlock
        case 8: *value = 49152; break;    // MaxSharedMemoryPerBlock
        case 10: *value = 32; break;      // WarpSize
        case 16: *value = 132; break;     // MultiProcessorCount
        case 38: *value = 50 << 20; break;  // L2CacheSize
        case 39: *value = 2048; break;    // MaxThreadsPerMultiProcessor
        case 75: *value = standin_sm() / 10; break;
        case 76: *value = standin_sm() % 10; break;
        case 81: *value = 233472; break;  // MaxSharedMemoryPerMultiprocessor
        case 97: *value = 232448; break;  // MaxSharedMemoryPerBlockOptin
        default: *value = 1;
    }
    return status();
}

// Memory -------------------------------------------------------------------------------------

CUDA_API int cudaMalloc(void** address, std::size_t bytes) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    standin_record("malloc", "%zu", bytes);
    if (int wrong = status()) return wrong;
    if (standin_capturing) return CAPTURE_UNSUPPORTED;
    if (held + bytes > total_memory()) return OUT_OF_MEMORY;
    char* block = host_block(bytes);
    if (block == nullptr) return OUT_OF_MEMORY;
    device_memory[block] = bytes;
    held += bytes;
    *address = block;
    return SUCCESS;
}

CUDA_API int cudaFree(void* address) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    standin_record("free", "%p", address);
    auto found = device_memory.find(static_cast<char*>(address));
    if (found == device_memory.end()) return address == nullptr ? SUCCESS : 1;
    held -= found->second;
    device_memory.erase(found);
    std::free(address);
    return SUCCESS;
}

CUDA_API int cudaHostAlloc(void** address, std::size_t bytes, unsigned) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    standin_record("pinned", "%zu", bytes);
    static const long most = standin_setting("STANDIN_CUDA_PINNED", 80L << 30);
    std::size_t pinned = bytes;
    for (const auto& [address, size] : pinned_memory) pinned += size;
    char* block = pinned > static_cast<std::size_t>(most) ? nullptr : host_block(bytes);
    if (block == nullptr) return OUT_OF_MEMORY;
    pinned_memory[block] = bytes;
    *address = block;
    return status();
}
CUDA_API int cudaMallocHost(void** address, std::size_t bytes) {
    return cudaHostAlloc(address, bytes, 0);
}
CUDA_API int cudaFreeHost(void* address) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    standin_record("unpinned", "%p", address);
    pinned_memory.erase(static_cast<char*>(address));
    std::free(address);
    return SUCCESS;
}

CUDA_API int cudaMallocFromPoolAsync(void** address, std::size_t bytes, void*, void*) {
    return cudaMalloc(address, bytes);
}
CUDA_API int cudaFreeAsync(void* address, void*) { return cudaFree(address); }
CUDA_API int cudaMemPoolCreate(void** pool, const void*) { *pool = new_handle(); return SUCCESS; }

CUDA_API int cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *total = total_memory();
    *free = *total - held;
    return status();
}

CUDA_API int cudaPointerGetAttributes(void* attributes, const void* address) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    std::memset(attributes, 0, 88);
    const bool on_device = lies_in(device_memory, address);
    // enum cudaMemoryType: unregistered, host, device.
    put(attributes, 0, on_device ? 2 : lies_in(pinned_memory, address) ? 1 : 0);
    if (on_device) put(attributes, 8, address);
    return SUCCESS;
}

static int copy(const char* event, void* to, const void* from, std::size_t bytes, int kind,
                void* stream) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    static const char* const kinds[] = {"h2h", "h2d", "d2h", "d2d", "any"};
    const bool pinned = lies_in(pinned_memory, kind == 1 ? from : to);
    standin_record(event, "%s %zu %p %p %s %p", kinds[kind < 0 || kind > 4 ? 4 : kind], bytes, from,
                   to, kind == 1 || kind == 2 ? (pinned ? "pinned" : "pageable") : "-", stream);
    if (!standin_capturing) std::memmove(to, from, bytes);
    return status();
}
CUDA_API int cudaMemcpy(void* to, const void* from, std::size_t bytes, int kind) {
    return copy("copy", to, from, bytes, kind, nullptr);
}
CUDA_API int cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, int kind, void* stream) {
    return copy("copy_async", to, from, bytes, kind, stream);
}
CUDA_API int cudaMemset(void* to, int value, std::size_t bytes) {
    std::memset(to, value, bytes);
    return status();
}
CUDA_API int cudaMemsetAsync(void* to, int value, std::size_t bytes, void*) {
    standin_record("memset", "%zu", bytes);
    return cudaMemset(to, value, bytes);
}

// Streams, events and graphs -----------------------------------------------------------------

CUDA_API int cudaStreamCreateWithFlags(void** stream, unsigned) {
    *stream = new_handle();
    return status();
}
CUDA_API int cudaStreamCreate(void** stream) { return cudaStreamCreateWithFlags(stream, 0); }
CUDA_API int cudaStreamSynchronize(void*) {
    standin_record("synchronize", "stream");
    return standin_capturing ? CAPTURE_UNSUPPORTED : status();
}
CUDA_API int cudaDeviceSynchronize() {
    standin_record("synchronize", "device");
    return standin_capturing ? CAPTURE_UNSUPPORTED : status();
}
CUDA_API int cudaEventCreateWithFlags(void** event, unsigned) {
    *event = new_handle();
    return status();
}
CUDA_API int cudaEventCreate(void** event) { return cudaEventCreateWithFlags(event, 0); }
CUDA_API int cudaEventRecord(void* event, void* stream) {
    standin_record("happens", "%p %p", event, stream);
    return status();
}
CUDA_API int cudaStreamWaitEvent(void* stream, void* event, unsigned) {
    standin_record("held", "%p %p", event, stream);
    return status();
}
CUDA_API int cudaEventQuery(void*) { return status(); }
CUDA_API int cudaEventSynchronize(void* event) {
    standin_record("synchronize", "event %p", event);
    return standin_capturing ? CAPTURE_UNSUPPORTED : status();
}
CUDA_API int cudaEventElapsedTime(float* milliseconds, void*, void*) {
    *milliseconds = 1.0f;
    return status();
}

CUDA_API int cudaStreamBeginCapture(void*, int mode) {
    standin_record("begin_capture", "mode %d", mode);
    standin_capturing = true;
    return status();
}
CUDA_API int cudaStreamEndCapture(void*, void** graph) {
    standin_capturing = false;
    standin_record("end_capture", "");
    *graph = new_handle();
    return status();
}
CUDA_API int cudaStreamIsCapturing(void*, int* state) {
    *state = standin_capturing ? 1 : 0;
    return SUCCESS;
}
CUDA_API int cudaGraphInstantiate(void** executable, void*, unsigned long long) {
    *executable = new_handle();
    standin_record("instantiate", "");
    return status();
}
CUDA_API int cudaGraphLaunch(void* executable, void* stream) {
    ++launches;
    standin_record("launch", "%p %p", executable, stream);
    return status();
}

// Kernels ------------------------------------------------------------------------------------

CUDA_API void** __cudaRegisterFatBinary(void*) { return static_cast<void**>(new_handle()); }
CUDA_API void __cudaRegisterFatBinaryEnd(void**) {}
CUDA_API void __cudaUnregisterFatBinary(void**) {}
CUDA_API void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int) {}
CUDA_API void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int,
                                     void*, void*, void*, void*, int*) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    int failed = 0;
    char* readable = abi::__cxa_demangle(name, nullptr, nullptr, &failed);
    kernels[function] = std::string(failed == 0 ? readable : name).substr(0, 160);
    std::free(readable);
}
CUDA_API unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, std::size_t shared,
                                              void* stream) {
    pushed = {grid, block, shared, stream};
    return 0;
}
CUDA_API int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, std::size_t* shared,
                                        void* stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    put(stream, 0, pushed.stream);
    return SUCCESS;
}
CUDA_API int cudaLaunchKernel(const void* function, Dim3 grid, Dim3 block, void**, std::size_t,
                              void*) {
    return launch(function, grid, block);
}
CUDA_API int cudaLaunchCooperativeKernel(const void* function, Dim3 grid, Dim3 block, void**,
                                         std::size_t, void*) {
    return launch(function, grid, block);
}
CUDA_API int cudaLaunchKernelExC(const Dim3* shape, const void* function, void**) {
    return launch(function, shape[0], shape[1]);  // cudaLaunchConfig_t begins with the two
}
CUDA_API int __cudaGetKernel(const void** kernel, const void* function) {
    *kernel = function;
    return SUCCESS;
}
CUDA_API int __cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void**, std::size_t,
                                void*) {
    return launch(kernel, grid, block);
}
CUDA_API int cudaFuncGetAttributes(void* attributes, const void*) {
    std::memset(attributes, 0, 144);
    put(attributes, 24, 1024);          // maxThreadsPerBlock
    put(attributes, 32, standin_sm());  // ptxVersion
    put(attributes, 36, standin_sm());  // binaryVersion
    return SUCCESS;
}
CUDA_API int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int,
                                                                    std::size_t, unsigned) {
    *blocks = 1;
    return SUCCESS;
}
CUDA_API int cudaGetDriverEntryPointByVersion(const char*, void** entry, unsigned,
                                              unsigned long long, int* result) {
    *entry = nullptr;
    if (result != nullptr) *result = 1;  // cudaDriverEntryPointSymbolNotFound
    return SUCCESS;
}

// Errors -------------------------------------------------------------------------------------

CUDA_API int cudaGetLastError() { return SUCCESS; }
CUDA_API int cudaPeekAtLastError() { return SUCCESS; }
CUDA_API const char* cudaGetErrorName(int wrong) {
    switch (wrong) {
        case SUCCESS: return "cudaSuccess";
        case OUT_OF_MEMORY: return "cudaErrorMemoryAllocation";
        case INSUFFICIENT_DRIVER: return "cudaErrorInsufficientDriver";
        case LAUNCH_FAILURE: return "cudaErrorLaunchFailure";
        case CAPTURE_UNSUPPORTED: return "cudaErrorStreamCaptureUnsupported";
        default: return "cudaErrorUnknown";
    }
}
CUDA_API const char* cudaGetErrorString(int wrong) {
    switch (wrong) {
        case SUCCESS: return "no error";
        case OUT_OF_MEMORY: return "out of memory";
        case INSUFFICIENT_DRIVER: return "CUDA driver version is insufficient for CUDA runtime version";
        case LAUNCH_FAILURE: return "unspecified launch failure";
        case CAPTURE_UNSUPPORTED: return "operation not permitted when stream is standin_capturing";
        default: return "unknown error";
    }
}
