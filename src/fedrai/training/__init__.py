"""Training of the adapter: SFT, and preference losses in `prefer`."""
