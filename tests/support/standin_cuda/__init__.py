"""A CUDA of host memory, for the real ONNX Runtime: built here with g++, no NVIDIA file needed.

What it shows: options, where nodes run, bindings, copies, and what a CUDA graph holds. What it
cannot show: a number or a time, for its kernels do nothing.
"""
