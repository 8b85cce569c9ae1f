"""Differential privacy of the clients' updates: clipping, noise, and what a run costs.

accounting.py   epsilon of what was published, and the noise for an epsilon (dp-accounting)
noise.py        Gaussian numbers from a key
mechanism.py    clipped changes and their noised mean
secret.py       the key of the noise: the seed in one process, a secret on a deployment
ledger.py       what a run or a node has published, and what that costs
guarantee.py    the server's part in the round loop
on_client.py    a client's part: its own noise, and the numbers that it does not send
"""
