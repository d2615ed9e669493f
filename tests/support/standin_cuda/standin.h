// What the stand-in's libraries share: the list of calls, and what the environment asks for.
#pragma once
#include <cstddef>
#include <cstdlib>

#define CUDA_API extern "C" __attribute__((visibility("default")))

enum Status {
    SUCCESS = 0,
    OUT_OF_MEMORY = 2,
    INSUFFICIENT_DRIVER = 35,
    INVALID_DEVICE = 101,
    LAUNCH_FAILURE = 719,
    CAPTURE_UNSUPPORTED = 900,
};

// Defined in record.cpp, which every other library is linked to.
extern "C" __attribute__((visibility("default"))) bool standin_capturing;
CUDA_API void standin_record(const char* event, const char* format, ...);

inline long standin_setting(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::atol(text);
}

inline int standin_sm() { return static_cast<int>(standin_setting("STANDIN_CUDA_SM", 90)); }

// As CUDA counts it: 13000 is what came with CUDA 13.0.
inline int standin_driver() {
    return static_cast<int>(standin_setting("STANDIN_CUDA_DRIVER", 13000));
}

inline const char* standin_name() {
    const char* text = std::getenv("STANDIN_CUDA_NAME");
    return text == nullptr ? "Stand-in GPU (computes nothing)" : text;
}
