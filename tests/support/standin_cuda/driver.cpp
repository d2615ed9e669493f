// libcuda.so.1 and libnvidia-ml.so.1: what the product asks about the GPU before CUDA loads, and
// what `nvidia-ml-py` asks. Written without the other libraries, as the real ones are.
#include "standin.h"

#include <cstdio>
#include <cstring>

CUDA_API int cuInit(unsigned) { return SUCCESS; }
CUDA_API int cuDriverGetVersion(int* version) { *version = standin_driver(); return SUCCESS; }
CUDA_API int cuDeviceGetCount(int* count) { *count = 1; return SUCCESS; }
CUDA_API int cuDeviceGet(int* device, int index) {
    *device = 0;
    return index == 0 ? SUCCESS : INVALID_DEVICE;
}
CUDA_API int cuDeviceGetName(char* text, int length, int) {
    std::snprintf(text, static_cast<std::size_t>(length), "%s", standin_name());
    return SUCCESS;
}
CUDA_API int cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? standin_sm() / 10 : attribute == 76 ? standin_sm() % 10 : 1;
    return SUCCESS;
}
CUDA_API int cuDeviceGetPCIBusId(char* text, int length, int) {
    std::snprintf(text, static_cast<std::size_t>(length), "0000:01:00.0");
    return SUCCESS;
}
CUDA_API int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
    *bytes = static_cast<std::size_t>(standin_setting("STANDIN_CUDA_MEMORY", 80L << 30));
    return SUCCESS;
}
CUDA_API int cuGetErrorString(int, const char** text) { *text = "stand-in"; return SUCCESS; }
CUDA_API int cuTensorMapEncodeTiled() { return SUCCESS; }

// NVML: a GPU that draws 100 J between any two readings.
struct NvmlMemory { unsigned long long total, free, used; };
CUDA_API int nvmlInitWithFlags(unsigned) { return SUCCESS; }
CUDA_API int nvmlInit_v2() { return SUCCESS; }
CUDA_API int nvmlShutdown() { return SUCCESS; }
CUDA_API const char* nvmlErrorString(int) { return "stand-in"; }
CUDA_API int nvmlSystemGetDriverVersion(char* text, unsigned length) {
    std::snprintf(text, length, "580.65.06");
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** handle) {
    static int device;
    *handle = &device;
    return std::strcmp(bus, "0000:01:00.0") == 0 ? SUCCESS : 6;  // NVML_ERROR_NOT_FOUND
}
CUDA_API int nvmlDeviceGetName(void*, char* text, unsigned length) {
    std::snprintf(text, length, "%s", standin_name());
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetMemoryInfo(void*, NvmlMemory* memory) {
    *memory = {80ULL << 30, 79ULL << 30, 1ULL << 30};
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
    static unsigned long long used = 0;
    *millijoules = used += 100000;
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetComputeMode(void*, int* mode) { *mode = 0; return SUCCESS; }
CUDA_API int nvmlDeviceGetPersistenceMode(void*, int* mode) { *mode = 1; return SUCCESS; }
CUDA_API int nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* milliwatts) {
    *milliwatts = 700000;
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetClockInfo(void*, int kind, unsigned* megahertz) {
    *megahertz = kind == 1 ? 1980 : 2619;
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetTemperature(void*, int, unsigned* celsius) {
    *celsius = 40;
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetCurrentClocksEventReasons(void*, unsigned long long* reasons) {
    *reasons = 1;  // idle
    return SUCCESS;
}
CUDA_API int nvmlDeviceGetComputeRunningProcesses_v3(void*, unsigned* count, void*) {
    *count = 0;
    return SUCCESS;
}
