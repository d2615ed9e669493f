"""What this computer is and has: cores, files, GPU, energy, load, interruption."""
