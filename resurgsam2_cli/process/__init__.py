"""How the process uses the machine: threads, interruption, time, memory, and settings of the system's libraries."""
