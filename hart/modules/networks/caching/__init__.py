"""The feature cache: which modules of a HART generation reuse the previous stage's output.

Functions and plain data only. The blocks that apply the decisions are in
:mod:`hart.modules.networks.basic_hart_enhanced`.
"""
