// libnvinfer.so.10 and its companions: answers what ONNX Runtime asks up to the builder,
// which it does not have: there the process ends, with a status that says how far it came.
#include "standin.h"

#include <cstdlib>

namespace {

void* nothing(...) { return nullptr; }

void* asked(const char* what) {
    standin_record("tensorrt", "%s", what);
    return nullptr;
}

}  // namespace

CUDA_API int getInferLibVersion() {
    return static_cast<int>(standin_setting("STANDIN_CUDA_TENSORRT", 101601));
}
CUDA_API int getInferLibBuildVersion() { return 11; }
CUDA_API int getNvOnnxParserVersion() { return 101601; }
CUDA_API bool initLibNvInferPlugins(void*, const char*) { return true; }
CUDA_API void* getLogger() { return nullptr; }
CUDA_API void* createInferBuilder_INTERNAL(void*, int) {
    asked("builder");
    std::_Exit(77);
}
CUDA_API void* createInferRuntime_INTERNAL(void*, int) { return asked("runtime"); }
CUDA_API void* createInferRefitter_INTERNAL(void*, void*, int) { return asked("refitter"); }
CUDA_API void* createNvOnnxParser_INTERNAL(void*, void*, int) { return asked("parser"); }
CUDA_API void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) { return asked("refitter"); }
CUDA_API void* getBuilderPluginRegistry(int) { return nullptr; }
CUDA_API void* getPluginRegistry() {
    // An object whose every virtual function returns nothing: there are no plugins.
    static void* table[128];
    static void** registry = table;
    for (auto& entry : table) entry = reinterpret_cast<void*>(nothing);
    return &registry;
}
