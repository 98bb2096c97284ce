"""A GPU that is not there: tensors of the device "cuda", with values, in the memory of the CPU (device.cpp).

    python -m tests.emulated_gpu MODULE ARGUMENTS       # as python -m MODULE ARGUMENTS, with that GPU

What runs on it runs as on a GPU as far as placement goes: a tensor that stayed on the CPU meets those of the device in
an error. Speed, memory, streams and bfloat16's own kernels are not emulated, and neither are further processes.
"""
