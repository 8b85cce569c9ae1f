"""A run: its preparation, and the engines on one machine.

`local` runs in this process, `simulation` in Flower's on Ray; the engine of deployments is in
`fedrai.deployment`. All of them use `rounds`.
"""
