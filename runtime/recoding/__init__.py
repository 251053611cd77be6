"""ONNX files written anew while they are loaded, without the package onnx."""
