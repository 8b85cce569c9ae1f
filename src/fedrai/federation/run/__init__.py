"""A run: what it needs before its first round, and the engines on one machine.

`local`: in this process. `simulation`: in Flower's, on Ray. The deployment's engine is in
`fedrai.deployment`. `rounds` is what all of them have in common.
"""
