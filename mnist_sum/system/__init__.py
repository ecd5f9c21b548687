"""What any program needs of the machine: devices, files, processes, random draws."""
