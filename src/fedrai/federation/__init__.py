"""The protocol, the client, the server with its round loop, and aggregation."""
