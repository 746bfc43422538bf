"""The kernels themselves, in Triton's dialect of Python. Importing a module in here needs triton.

A program works on lanes: a lane is a thread, and makes some consecutive samples of one row (one channel of one batch
item) in its registers, so that neighbouring samples are computed once and not once per use.
"""
