// libcublas.so.13 and libcublasLt.so.13: products are listed with their sizes, and not computed.
#include "standin.h"

static int math_mode = 0;

CUDA_API int cublasCreate_v2(void** handle) { *handle = std::malloc(64); return SUCCESS; }
CUDA_API int cublasDestroy_v2(void* handle) { std::free(handle); return SUCCESS; }
CUDA_API int cublasLtCreate(void** handle) { return cublasCreate_v2(handle); }
CUDA_API int cublasLtDestroy(void* handle) { return cublasDestroy_v2(handle); }
CUDA_API int cublasGetMathMode(void*, int* mode) { *mode = math_mode; return SUCCESS; }
CUDA_API int cublasSetMathMode(void*, int mode) { math_mode = mode; return SUCCESS; }
CUDA_API const char* cublasGetStatusString(int) { return "stand-in"; }
CUDA_API const char* cublasGetStatusName(int) { return "stand-in"; }

// Mode 3 is CUBLAS_TF32_TENSOR_OP_MATH.
static int product(const char* how, int m, int n, int k, int batch) {
    standin_record("product", "%s %dx%dx%d batch %d%s", how, m, n, k, batch,
                   math_mode & 3 ? " tf32" : "");
    return SUCCESS;
}
CUDA_API int cublasSgemm_v2(void*, int, int, int m, int n, int k, const float*, const float*, int,
                            const float*, int, const float*, float*, int) {
    return product("plain", m, n, k, 1);
}
CUDA_API int cublasSgemmStridedBatched(void*, int, int, int m, int n, int k, const float*,
                                       const float*, int, long long, const float*, int, long long,
                                       const float*, float*, int, long long, int batch) {
    return product("strided", m, n, k, batch);
}
CUDA_API int cublasSgemmBatched(void*, int, int, int m, int n, int k, const float*,
                                const float* const[], int, const float* const[], int, const float*,
                                float* const[], int, int batch) {
    return product("by_pointers", m, n, k, batch);
}
// Of half precision: type 2, a sum in fp32 is compute type 68.
static int half_product(const char* how, int m, int n, int k, int batch, int type, int computing) {
    standin_record("product", "%s half type %d in %d %dx%dx%d batch %d", how, type, computing, m, n, k,
                   batch);
    return SUCCESS;
}
CUDA_API int cublasGemmEx(void*, int, int, int m, int n, int k, const void*, const void*, int type,
                          int, const void*, int, int, const void*, void*, int, int, int computing,
                          int) {
    return half_product("plain", m, n, k, 1, type, computing);
}
CUDA_API int cublasGemmStridedBatchedEx(void*, int, int, int m, int n, int k, const void*,
                                        const void*, int type, int, long long, const void*, int,
                                        int, long long, const void*, void*, int, int, long long,
                                        int batch, int computing, int) {
    return half_product("strided", m, n, k, batch, type, computing);
}
CUDA_API int cublasGemmBatchedEx(void*, int, int, int m, int n, int k, const void*,
                                 const void* const[], int type, int, const void* const[], int, int,
                                 const void*, void* const[], int, int, int batch, int computing,
                                 int) {
    return half_product("by_pointers", m, n, k, batch, type, computing);
}
// A product with the identity: how ONNX Runtime transposes a matrix.
CUDA_API int cublasSgeam(void*, int, int, int m, int n, const float*, const float*, int,
                         const float*, const float*, int, float*, int) {
    return product("transposed", m, n, 1, 1);
}
