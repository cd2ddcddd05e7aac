"""What a client asks of its process: threads, forks, the end of the program, back-off."""
