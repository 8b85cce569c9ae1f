"""Where a federation runs.

`local`: in this process. `simulation`: in Flower's, on Ray. `deployment` (the server's side) and
`worker` (a node's): on a SuperLink and its SuperNodes. `rounds` is what all of them have in common.
"""
