"""The vocabulary both worlds share: specs, learning signals, certificates, run directories, errors."""
