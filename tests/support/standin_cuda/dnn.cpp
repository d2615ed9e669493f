// libcudnn.so.9: keeps the attributes of descriptors, and lists what is executed.
#include "standin.h"

#include <cstring>
#include <map>
#include <vector>

namespace {

// enum cudnnBackendAttributeType_t
constexpr int HANDLE = 0, INT64 = 3, DOUBLE = 5, VOID_PTR = 6, DESCRIPTOR = 15;
constexpr int BOOLEAN = 2, INT32 = 9, CHAR = 24, NUMERICAL_NOTE = 23;
// enum cudnnBackendAttributeName_t
constexpr int HEURISTIC_RESULTS = 202, CONFIG_WORKSPACE = 303, PLAN_WORKSPACE = 402;
constexpr int ENGINE_INDEX = 1301;

struct Attribute {
    long count;
    std::vector<char> bytes;
};
struct Descriptor {
    std::map<int, Attribute> attributes;
};

std::size_t size_of(int type) {
    switch (type) {
        case HANDLE: case INT64: case DOUBLE: case VOID_PTR: case DESCRIPTOR: return 8;
        case BOOLEAN: case CHAR: return 1;
        default: return 4;
    }
}

int give(long* count, void* values, long value) {
    if (count != nullptr) *count = 1;
    if (values != nullptr) std::memcpy(values, &value, sizeof value);
    return SUCCESS;
}

}  // namespace

CUDA_API std::size_t cudnnGetVersion() { return 92700; }
CUDA_API std::size_t cudnnGetCudartVersion() { return 13000; }
CUDA_API int cudnnCreate(void** handle) { *handle = std::malloc(64); return SUCCESS; }
CUDA_API int cudnnDestroy(void* handle) { std::free(handle); return SUCCESS; }
CUDA_API int cudnnSetStream(void*, void*) { return SUCCESS; }
CUDA_API int cudnnGetStream(void*, void** stream) { *stream = nullptr; return SUCCESS; }
CUDA_API const char* cudnnGetErrorString(int) { return "stand-in"; }
CUDA_API void cudnnGetLastErrorString(char* text, std::size_t length) {
    if (length > 0) text[0] = 0;
}

CUDA_API int cudnnBackendCreateDescriptor(int, void** descriptor) {
    *descriptor = new Descriptor;
    return SUCCESS;
}
CUDA_API int cudnnBackendDestroyDescriptor(void* descriptor) {
    delete static_cast<Descriptor*>(descriptor);
    return SUCCESS;
}
CUDA_API int cudnnBackendSetAttribute(void* descriptor, int name, int type, long count,
                                      const void* values) {
    auto first = static_cast<const char*>(values);
    static_cast<Descriptor*>(descriptor)->attributes[name] = {
        count, std::vector<char>(first, first + static_cast<std::size_t>(count) * size_of(type))};
    return SUCCESS;
}
CUDA_API int cudnnBackendFinalize(void*) { return SUCCESS; }
CUDA_API int cudnnBackendGetAttribute(void* descriptor, int name, int type, long room, long* count,
                                      void* values) {
    if (name == HEURISTIC_RESULTS) {  // one engine, in the descriptor that was handed in
        if (count != nullptr) *count = 1;
        return SUCCESS;
    }
    if (name == PLAN_WORKSPACE || name == CONFIG_WORKSPACE) return give(count, values, 1024);
    auto& known = static_cast<Descriptor*>(descriptor)->attributes;
    if (auto found = known.find(name); found != known.end()) {
        if (count != nullptr) *count = found->second.count;
        const std::size_t fits = static_cast<std::size_t>(room) * size_of(type);
        const auto& bytes = found->second.bytes;
        if (values != nullptr)
            std::memcpy(values, bytes.data(), bytes.size() < fits ? bytes.size() : fits);
        return SUCCESS;
    }
    if (type == DESCRIPTOR) {
        if (count != nullptr) *count = 1;
        return SUCCESS;
    }
    if (name == ENGINE_INDEX) return give(count, values, 0);
    const bool number = type == INT64 || type == INT32 || type == NUMERICAL_NOTE;
    if (number && values != nullptr) std::memset(values, 0, size_of(type));
    if (count != nullptr) *count = number && values != nullptr ? 1 : 0;
    return SUCCESS;
}
CUDA_API int cudnnBackendExecute(void*, void*, void*) {
    standin_record("cudnn", "graph");
    return SUCCESS;
}
CUDA_API int cudnnGetReductionIndicesSize(void*, void*, void*, void*, std::size_t* bytes) {
    *bytes = 0;
    return SUCCESS;
}
CUDA_API int cudnnGetReductionWorkspaceSize(void*, void*, void*, void*, std::size_t* bytes) {
    *bytes = 0;
    return SUCCESS;
}

#define MAKES(name) \
    CUDA_API int name(void** made) { *made = std::malloc(64); return SUCCESS; }
MAKES(cudnnCreateTensorDescriptor) MAKES(cudnnCreateFilterDescriptor)
MAKES(cudnnCreateConvolutionDescriptor) MAKES(cudnnCreateActivationDescriptor)
MAKES(cudnnCreateReduceTensorDescriptor) MAKES(cudnnCreateDropoutDescriptor)
MAKES(cudnnCreateLRNDescriptor) MAKES(cudnnCreatePoolingDescriptor)
MAKES(cudnnCreateRNNDataDescriptor) MAKES(cudnnCreateRNNDescriptor)

#define LISTED(name) \
    CUDA_API int name(...) { standin_record("cudnn", #name); return SUCCESS; }
#define QUIET(name) \
    CUDA_API int name(...) { return SUCCESS; }
LISTED(cudnnConvolutionForward) LISTED(cudnnConvolutionBiasActivationForward)
LISTED(cudnnActivationForward) LISTED(cudnnAddTensor) LISTED(cudnnReduceTensor)
LISTED(cudnnBatchNormalizationForwardInference) LISTED(cudnnBatchNormalizationForwardTraining)
LISTED(cudnnPoolingForward) LISTED(cudnnSoftmaxForward) LISTED(cudnnLRNCrossChannelForward)
LISTED(cudnnRNNForward) LISTED(cudnnFindConvolutionForwardAlgorithmEx)
LISTED(cudnnGetConvolutionForwardAlgorithm_v7) LISTED(cudnnGetConvolutionForwardWorkspaceSize)
QUIET(cudnnDestroyTensorDescriptor) QUIET(cudnnSetTensorNdDescriptor)
QUIET(cudnnGetTensorNdDescriptor) QUIET(cudnnSetReduceTensorDescriptor)
QUIET(cudnnDestroyReduceTensorDescriptor) QUIET(cudnnSetActivationDescriptor)
QUIET(cudnnDestroyActivationDescriptor) QUIET(cudnnDeriveBNTensorDescriptor)
QUIET(cudnnDestroyConvolutionDescriptor) QUIET(cudnnSetConvolutionGroupCount)
QUIET(cudnnSetConvolutionMathType) QUIET(cudnnSetConvolutionNdDescriptor)
QUIET(cudnnDestroyDropoutDescriptor) QUIET(cudnnDropoutGetStatesSize)
QUIET(cudnnSetDropoutDescriptor) QUIET(cudnnDestroyFilterDescriptor)
QUIET(cudnnSetFilterNdDescriptor) QUIET(cudnnDestroyLRNDescriptor) QUIET(cudnnSetLRNDescriptor)
QUIET(cudnnDestroyPoolingDescriptor) QUIET(cudnnSetPoolingNdDescriptor)
QUIET(cudnnDestroyRNNDataDescriptor) QUIET(cudnnSetRNNDataDescriptor)
QUIET(cudnnDestroyRNNDescriptor) QUIET(cudnnSetRNNDescriptor_v8)
QUIET(cudnnGetRNNTempSpaceSizes) QUIET(cudnnGetRNNWeightParams)
