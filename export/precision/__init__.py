"""Precisions of an ONNX file, one module and one function each: (source file, destination file, ...) -> Precision."""
