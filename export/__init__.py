"""Checkpoint to ONNX: lowering of the FFT layers, which the parity gate then proves."""
