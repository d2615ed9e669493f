"""Checkpoint to ONNX: lowering of the FFT layers, and the parity gate."""
